//! Double quantization: the scales less their mean, in 8 bits.
//!
//! Both steps follow what runs on CPUs: the mean is `torch.mean`'s, whose order of summation shows in the
//! last bit; the code is looked up in a table of 65 536 steps over [-1, 1], which for tiny values is coarser
//! than the code itself.

/// Scales that share a scale.
pub(super) const BLOCK: usize = 256;

/// The doubly quantized scales.
#[derive(Debug)]
pub(super) struct Nested {
    /// A code for each scale.
    pub codes: Vec<u8>,
    /// The largest magnitude of each block of [`BLOCK`].
    pub absmax: Vec<f32>,
    /// The mean, taken off before.
    pub offset: f32,
}

/// Finds codes of the dynamic map.
#[derive(Debug)]
pub(super) struct Quantizer {
    table: Vec<u8>,
}

impl Quantizer {
    /// The table for `map`, ascending.
    pub fn new(map: &[f32; 256]) -> Self {
        const LAST: f32 = 65535.0;
        let mut code = 0;
        let index = |i: u32| {
            let value = (2.0 * i as f32) / LAST - 1.0;
            while code < 255 && 0.5 * (map[code] + map[code + 1]) < value {
                code += 1;
            }
            code as u8
        };
        Self { table: (0..65536).map(index).collect() }
    }

    fn code(&self, x: f32) -> u8 {
        let step = (x.clamp(-1.0, 1.0) + 1.0) * 0.5 * 65535.0 + 0.5;
        self.table[usize::from(step as u16)]
    }

    /// Quantizes the scales of a tensor.
    pub fn quantize(&self, scales: &[f32]) -> Nested {
        let offset = mean(scales);
        let mut nested = Nested { codes: Vec::with_capacity(scales.len()), absmax: Vec::new(), offset };
        for block in scales.chunks(BLOCK) {
            let absmax = block.iter().fold(0.0f32, |max, x| max.max((x - offset).abs()));
            nested.absmax.push(absmax);
            if absmax == 0.0 {
                nested.codes.extend(block.iter().map(|_| 0));
                continue;
            }
            let scale = 1.0 / absmax;
            nested.codes.extend(block.iter().map(|x| self.code((x - offset) * scale)));
        }
        nested
    }
}

/// The lanes of torch's sums, whatever the CPU has.
const LANES: usize = 8;
/// Sums kept side by side.
const ROWS: usize = 4;
/// Depth of the cascade.
const LEVELS: usize = 4;

/// `torch.mean` of f32 values on one thread (with more, torch splits 32 768 values and more among them, and the
/// last bit depends on how many there are). NaN for no values.
pub(super) fn mean(x: &[f32]) -> f32 {
    let sum = if x.len() < LANES {
        let [sum] = cascade(x.as_chunks().0);
        sum
    } else {
        let (vectors, rest) = x.as_chunks::<LANES>();
        let rest = rest.iter().fold(0.0, |sum, v| sum + v);
        cascade(vectors).iter().fold(rest, |sum, v| sum + v)
    };
    sum / x.len() as f32
}

/// Sums vectors lane by lane: four rows of sums side by side; after every 16 vectors of a row (more for long
/// inputs) the sums move up a level, which keeps the rounding error small.
fn cascade<const N: usize>(x: &[[f32; N]]) -> [f32; N] {
    let add = |to: &mut [f32; N], from: &[f32; N]| to.iter_mut().zip(from).for_each(|(to, v)| *to += v);
    let (groups, rest) = x.as_chunks::<ROWS>();
    let power = 4.max(ceil_log2(groups.len()) / LEVELS as u32);
    let mut levels = [[[0.0; N]; ROWS]; LEVELS];
    let (whole, tail) = groups.split_at(groups.len() >> power << power);
    for (i, group) in whole.iter().enumerate() {
        levels[0].iter_mut().zip(group).for_each(|(to, v)| add(to, v));
        let done = i + 1;
        for level in 1..LEVELS {
            // every 2^power groups the first sums move up, every 2^2power the second …
            if done & ((1 << (power * level as u32)) - 1) != 0 {
                break;
            }
            let (lower, upper) = levels.split_at_mut(level);
            upper[0].iter_mut().zip(&lower[level - 1]).for_each(|(to, v)| add(to, v));
            lower[level - 1] = [[0.0; N]; ROWS];
        }
    }
    for group in tail {
        levels[0].iter_mut().zip(group).for_each(|(to, v)| add(to, v));
    }
    let (first, upper) = levels.split_at_mut(1);
    for level in upper {
        first[0].iter_mut().zip(level).for_each(|(to, v)| add(to, v));
    }
    let [sum, rows @ ..] = &mut first[0];
    rest.iter().for_each(|v| add(sum, v));
    rows.iter().for_each(|v| add(sum, v));
    *sum
}

fn ceil_log2(n: usize) -> u32 {
    n.max(1).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the golden file's maker.
    fn made_up(count: usize) -> Vec<f32> {
        let one = |i: usize| {
            let x = ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
            (x * x * x * 0.125).abs()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn means_are_torchs_to_the_last_bit() {
        for pair in super::super::golden("means") {
            let count = pair[0].as_u64().unwrap() as usize;
            let found = mean(&made_up(count));
            assert_eq!(u64::from(found.to_bits()), pair[1].as_u64().unwrap(), "{count} values: {found}");
        }
    }

    #[test]
    fn equal_scales_have_nothing_left_to_quantize() {
        let quantizer = Quantizer::new(&super::super::code::dynamic_map());
        let nested = quantizer.quantize(&[0.25; 300]);
        assert_eq!(nested.offset, 0.25);
        assert_eq!(nested.absmax, [0.0; 2]);
        assert_eq!(nested.codes, [0; 300]);
    }
}

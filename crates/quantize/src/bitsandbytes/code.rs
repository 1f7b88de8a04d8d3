//! The values of the 4-bit and the dynamic 8-bit codes.
//!
//! A number gets the nearest value by midpoints, and an exact tie the lower one: index `i` of the sorted values
//! for `edge[i-1] < x <= edge[i]`.

use quern_tensor_io::decode::four_bit::{FP4, NF4};

use super::Kind;

/// A 4-bit code.
#[derive(Debug)]
pub(super) struct Code {
    /// Values by index, as the file has them.
    pub values: [f32; 16],
    /// The smallest f32 that is nearer to the next of the sorted values: 15 of them, then infinity.
    pub edges: [f32; 16],
    /// Index of the `i`-th value in ascending order.
    pub order: [u8; 16],
}

impl Code {
    /// The code of `kind`; `None` for int8, which has none.
    pub fn new(kind: Kind) -> Option<Self> {
        let (values, order) = match kind {
            Kind::Nf4 => (NF4, std::array::from_fn(|i| i as u8)),
            Kind::Fp4 => {
                // bitsandbytes writes +0 for both zeros. It sorts index 0 before 8, so that tiny positive
                // values get the second zero.
                let mut values = FP4;
                values[8] = 0.0;
                (values, [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3])
            }
            Kind::Int8 => return None,
        };
        let sorted = order.map(|i| values[usize::from(i)]);
        let mut edges = [f32::INFINITY; 16];
        for (edge, pair) in edges.iter_mut().zip(sorted.windows(2)) {
            *edge = ((pair[0] + pair[1]) / 2.0).next_up();
        }
        Some(Self { values, edges, order })
    }

    /// The index for one scaled value; lanes do the same sixteen at a time.
    #[cfg(test)]
    pub fn nearest(&self, x: f32) -> u8 {
        self.order[self.edges[..15].iter().filter(|&&edge| x >= edge).count()]
    }
}

/// The signed dynamic map of 256 values, ascending: for each decade from 1e-6 to 1, the midpoints of [0.1, 1]
/// cut in 1, 2, 4 … 64 parts, with both signs; zero; one.
pub(super) fn dynamic_map() -> [f32; 256] {
    let mut values = Vec::with_capacity(256);
    values.extend([0.0, 1.0]);
    for decade in 0..7 {
        let parts = 1usize << decade;
        // torch.linspace: from both ends, fused
        let step = (1.0 - 0.1) / parts as f32;
        let bound = |i: usize| match i < parts.div_ceil(2) {
            true => step.mul_add(i as f32, 0.1),
            false => (-step).mul_add((parts - i) as f32, 1.0),
        };
        let scale = 10f64.powi(decade - 6) as f32;
        for i in 0..parts {
            let middle = scale * ((bound(i) + bound(i + 1)) / 2.0);
            values.extend([middle, -middle]);
        }
    }
    values.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.copy_from_slice(&values);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_block_gets_the_documented_codes() {
        let block = [2.0, -1.0, 0.5, 0.0, -2.0, 0.1, 1.5, -0.3];
        let codes = |kind| {
            let code = Code::new(kind).unwrap();
            block.map(|x: f32| code.nearest(x * 0.5))
        };
        assert_eq!(codes(Kind::Nf4), [15, 2, 10, 7, 0, 8, 14, 5]);
        assert_eq!(codes(Kind::Fp4), [3, 13, 7, 0, 11, 1, 2, 14]);
    }

    #[test]
    fn every_value_is_its_own_nearest_and_ties_go_down() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            let code = Code::new(kind).unwrap();
            for (i, &value) in code.values.iter().enumerate() {
                let found = code.nearest(value);
                assert_eq!(code.values[usize::from(found)], value, "{kind:?} {i}");
            }
            let sorted = code.order.map(|i| code.values[usize::from(i)]);
            assert!(sorted.is_sorted());
            for (i, pair) in sorted.windows(2).enumerate() {
                let middle = (pair[0] + pair[1]) / 2.0;
                assert_eq!(code.nearest(middle), code.order[i]);
                assert_eq!(code.nearest(middle.next_up()), code.order[i + 1]);
            }
        }
    }

    #[test]
    fn the_dynamic_map_is_bitsandbytes() {
        let map = dynamic_map();
        for (value, expected) in map.iter().zip(super::super::golden("dynamic_map")) {
            assert_eq!(u64::from(value.to_bits()), expected.as_u64().unwrap());
        }
        assert!(map.is_sorted());
        assert_eq!([map[0], map[127], map[254], map[255]], [-0.992_968_75, 0.0, 0.992_968_75, 1.0]);
    }
}

//! How the source's type rounded a value: the interval of numbers that it stores as that value.

use quern_tensor_io::ElementType;

/// Values of a block.
pub(super) type Values = [f32; 32];

/// The rounding that a block's values have gone through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rounding {
    /// Significant bits of a value: 8 (bf16), 11 (f16) or 24 (f32).
    digits: i32,
    /// Whether the values are stored as f16, whose small numbers have fewer bits.
    half: bool,
}

/// Half the distance of f16's subnormal numbers.
const HALF_SUBNORMAL: f64 = 1.0 / (1u64 << 25) as f64;

impl Rounding {
    /// The roundings that `values`, stored as `stored`, can have had, from that of the type to the coarsest: bf16 numbers
    /// in an f16 or f32 file were converted from bf16, so that bf16's rounding is in them. None for types that are no
    /// plain numbers.
    pub fn of(values: &Values, stored: ElementType) -> impl Iterator<Item = Self> + use<> {
        let half = stored == ElementType::F16;
        let digits = match stored {
            ElementType::F32 => Some(24),
            ElementType::F16 => Some(11),
            ElementType::BF16 => Some(8),
            _ => None,
        };
        let bf16 = digits.is_some() && values.iter().all(|v| v.to_bits() & 0xffff == 0);
        let f16 = digits == Some(24) && !bf16 && values.iter().all(|&v| half::f16::from_f32(v).to_f32() == v);
        let coarse = match (bf16, f16) {
            (true, _) => Some(8),
            (false, true) => Some(11),
            (false, false) => None,
        };
        let coarse = coarse.filter(|_| digits != coarse);
        digits.into_iter().chain(coarse).map(move |digits| Self { digits, half })
    }

    /// The smallest and largest number that is stored as `magnitude`, which is positive.
    pub fn bounds(self, magnitude: f32) -> (f64, f64) {
        let v = f64::from(magnitude);
        let half = self.half_step(magnitude);
        // Numbers are twice as dense below a power of two.
        let power_of_two = v.to_bits() & ((1 << 52) - 1) == 0;
        let below = if power_of_two && half > HALF_SUBNORMAL { half / 2.0 } else { half };
        (v - below, v + half)
    }

    /// The same for a number of either sign.
    pub fn signed_bounds(self, value: f32) -> (f64, f64) {
        let (low, high) = self.bounds(value.abs());
        if value < 0.0 { (-high, -low) } else { (low, high) }
    }

    /// Half the distance to the next larger number.
    pub fn half_step(self, value: f32) -> f64 {
        let exponent = |v: f64| ((v.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let half = match value {
            0.0 => 0.0,
            v => 2f64.powi(exponent(f64::from(v)) - self.digits),
        };
        let f16_number = self.half || self.digits == 11;
        if f16_number { half.max(HALF_SUBNORMAL) } else { half }
    }

    /// Whether `decoded` is stored as `value`.
    pub fn gives(self, decoded: f32, value: f32) -> bool {
        let rounded = match self.digits {
            8 => half::bf16::from_f32(decoded).to_f32(),
            _ => decoded,
        };
        let rounded =
            if self.half || self.digits == 11 { half::f16::from_f32(rounded).to_f32() } else { rounded };
        rounded == value
    }
}

/// How unlikely that is, in bits.
pub(super) fn bits(chance: f64) -> f32 {
    -chance.max(f64::MIN_POSITIVE).log2() as f32
}

/// Scales between two ends, which are halfway between two numbers at times: what is divided in f64 is a little wider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    const WIDER: f64 = 1e-12;

    /// Less what is outside `low..=high`; `None` if nothing is left.
    pub fn within(self, low: f64, high: f64) -> Option<Self> {
        let (low, high) = (self.low.max(low), self.high.min(high));
        (low <= high * (1.0 + Self::WIDER)).then_some(Self { low, high })
    }

    pub fn middle(self) -> f64 {
        0.5 * (self.low + self.high)
    }

    /// The f16 numbers around the middle that are within: the ends may be numbers that are halfway to others.
    pub fn f16_numbers(self) -> impl Iterator<Item = f32> {
        let bits = half::f16::from_f64(self.middle()).to_bits();
        let around = [bits, bits.saturating_sub(1), bits.saturating_add(1)].map(half::f16::from_bits);
        around
            .into_iter()
            .filter(|d| d.is_finite() && d.to_bits() != 0)
            .map(f32::from)
            .filter(move |&d| self.contains(d))
    }

    fn contains(self, x: f32) -> bool {
        let x = f64::from(x);
        x >= self.low * (1.0 - Self::WIDER) && x <= self.high * (1.0 + Self::WIDER)
    }
}

/// The f16 number nearest to `x`, if `x` is within its range; `None` also where it would be 0.
pub(super) fn nearest_f16(x: f64) -> Option<f32> {
    let nearest = half::f16::from_f64(x);
    (nearest.is_finite() && nearest != half::f16::ZERO && nearest != half::f16::NEG_ZERO)
        .then(|| nearest.to_f32())
}

//! The values of four-bit codes, in integers.
//!
//! NF4's and FP4's numbers are floats, but kernels multiply integers. So a number `t` is rounded to
//! `round(c * t)` steps of `1/c`, and the block's scale is `absmax / c`:
//!
//! ```text
//!        c        largest error   root mean square   that of the values, of quantizing to them
//! nf4    124.125  0.0037          0.0018             0.393, 0.036      (all in units of absmax)
//! fp4    120      0.0032          0.0013             0.394, 0.047
//! ```
//!
//! (normally distributed weights in blocks of 64). Rounding adds 0.13 % to NF4's own error, and 0.04 % to
//! FP4's; all numbers but +-1/192 are exact. `c` is the best multiple of 1/16 up to 127 for how
//! often codes occur, of those whose reciprocal in f32 undoes it exactly.

/// The values of `iq4_nl` and `iq4_xs` codes.
pub(crate) use quern_tensor_io::decode::iq4::TABLE as IQ4;
/// Doubled E2M1 values.
pub(crate) use quern_tensor_io::decode::mxfp4::TABLE as MXFP4;

/// NF4's numbers in steps of [`NF4_STEP`].
pub(crate) const NF4: [i8; 16] = [-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124];
/// Of absmax.
pub(crate) const NF4_STEP: f32 = 1.0 / 124.125;
/// FP4's numbers in steps of [`FP4_STEP`].
pub(crate) const FP4: [i8; 16] = [0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30];
/// Of absmax.
pub(crate) const FP4_STEP: f32 = 1.0 / 120.0;

#[cfg(test)]
mod tests {
    use quern_tensor_io::decode::four_bit;

    #[test]
    fn steps_are_the_nearest_and_errors_as_documented() {
        let types = [
            (four_bit::NF4, super::NF4, super::NF4_STEP, 124.125, 0.0037),
            (four_bit::FP4, super::FP4, super::FP4_STEP, 120.0, 0.0032),
        ];
        for (numbers, steps, step, c, largest) in types {
            assert_eq!(c * step, 1.0);
            for (t, s) in numbers.into_iter().zip(steps) {
                assert_eq!((t * c).round(), f32::from(s));
                assert!((f32::from(s) * step - t).abs() <= largest, "{t} {s}");
            }
        }
    }
}

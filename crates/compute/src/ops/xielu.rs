//! xIELU (arXiv 2411.13010), an activation with parameters of its own in each layer (Apertus):
//!
//! ```text
//! x > 0    p x² + b x                               p = softplus(alpha_p)
//! else     n (e^min(x, eps) - 1 - x) + b x          n = b + softplus(alpha_n)
//! ```

/// The function of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// `p`.
    pub positive: f32,
    /// `n`.
    pub negative: f32,
    /// `b`.
    pub beta: f32,
    /// What exponents are at most.
    pub eps: f32,
}

/// `ln(1 + e^x)`, as torch computes it.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

impl Xielu {
    /// Of the parameters as models have them: `alpha_p`, `alpha_n`, `beta`, `eps`.
    pub fn new([alpha_p, alpha_n, beta, eps]: [f32; 4]) -> Self {
        Self { positive: softplus(alpha_p), negative: beta + softplus(alpha_n), beta, eps }
    }

    /// `x = xielu(x)`.
    pub fn apply(self, x: &mut [f32]) {
        let Self { positive, negative, beta, eps } = self;
        x.iter_mut().for_each(|x| {
            *x = match *x > 0.0 {
                true => positive * *x * *x + beta * *x,
                false => (x.min(eps).exp_m1() - *x) * negative + beta * *x,
            };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_smooth_at_zero_and_bends_on_both_sides() {
        let mut x = [-3.0, -1e-3, 0.0, 1e-3, 2.0];
        Xielu::new([0.3, -0.4, 0.5, -1e-6]).apply(&mut x);
        let (p, n) = ((1.0 + 0.3f32.exp()).ln(), 0.5 + (1.0 + (-0.4f32).exp()).ln());
        let wanted = [n * ((-3.0f32).exp() - 1.0 + 3.0) - 1.5, -5e-4, -1e-6 * n, 5e-4, p * 4.0 + 1.0];
        for (x, wanted) in x.into_iter().zip(wanted) {
            assert!((x - wanted).abs() < 2e-6, "{x} {wanted}");
        }
    }
}

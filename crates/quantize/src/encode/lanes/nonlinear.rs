//! The scale search of `iq4_nl` and `iq4_xs`, sixteen blocks at once.

use quern_compute::simd::lanes::{LANES, Lanes};

use super::super::numeric::ZERO_BLOCK;
use super::super::table::{IQ4, IQ4_EDGES};
use super::search::extreme;

/// The `iq4` table and its edges, as lanes look them up.
#[derive(Clone, Copy)]
pub(super) struct Nonlinear {
    pub values: [f32; LANES],
    pub edges: [f32; LANES],
}

impl Nonlinear {
    pub const IQ4: Self = {
        let (mut values, mut edges) = ([0.0; LANES], [0.0; LANES]);
        let mut i = 0;
        while i < LANES {
            values[i] = IQ4[i] as f32;
            if i < 15 {
                edges[i] = IQ4_EDGES[i];
            }
            i += 1;
        }
        Self { values, edges }
    };
}

/// See [`scalar::search::nonlinear`](super::super::scalar::search::nonlinear).
#[inline(always)]
pub(super) fn search<S: Lanes, const N: usize>(s: S, x: &[[f32; LANES]; N], w: &[[f32; LANES]; N]) -> S::F {
    let table = Nonlinear::IQ4;
    let (extreme, magnitude) = extreme(s, x);
    let none = s.splat(0.0);
    let first = table.values[0];
    let (mut scale, mut best) = (none, none);
    for step in -8..=7 {
        // Step -8 stands for the first candidate.
        let candidate = if step == -8 {
            s.splat(1.0) / (s.splat(-0.0) - extreme / s.splat(first))
        } else {
            s.splat(step as f32 + first) / extreme
        };
        let (mut qx, mut q2) = (none, none);
        for (x, w) in x.iter().zip(w) {
            let x = s.load(x);
            let q = s.take(&table.values, s.steps_reached(&table.edges, candidate * x));
            let wq = s.load(w) * q;
            qx = qx + wq * x;
            q2 = q2 + wq * q;
        }
        let new = qx / q2;
        let positive = s.less(none, q2);
        if step == -8 {
            scale = s.select(positive, new, none);
            best = scale * qx;
        } else {
            let better = s.both(positive, s.less(best * q2, qx * qx));
            scale = s.select(better, new, scale);
            best = s.select(better, new * qx, best);
        }
    }
    s.select(s.less(magnitude, s.splat(ZERO_BLOCK)), none, scale)
}

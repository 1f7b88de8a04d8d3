//! iq1 in lanes: see `scalar::ternary_grid`, step by step the same.
//!
//! Each lane sorts its values alone; all splits of sixteen sub-blocks are scored side by side; then each lane
//! looks for its points among its candidates, sixteen candidates side by side.

use quern_compute::simd::lanes::{LANES, Lanes};
use quern_tensor_io::layout::{IQ1M, IQ1S};

use super::super::codebook::{self, FoundTiles};
use super::super::scalar::ternary_grid::{
    DOWN, Split, SubBlock, TINY_M, TINY_S, UP, finish_m, finish_s, sorted, to_grid,
};
use super::batch::{Batch, BlockEncoder};
use super::nearest;
use super::super_blocks::{energy, importance, squares};
use super::tile::{Aligned, Tile};

/// `iq1_s`, in sub-blocks of 32, or `iq1_m`, of 16.
#[derive(Clone, Copy)]
pub(super) struct Iq1<const N: usize>;

impl BlockEncoder<256> for Iq1<32> {
    type Block = IQ1S;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let work = Work::new(s, batch);
        let subs: [[SubBlock; 8]; LANES] = sub_blocks::<S, 32, 8>(s, batch, &work, TINY_S, Splits::whole);
        for (lane, (out, subs)) in out.iter_mut().zip(&subs).enumerate() {
            *out = finish_s(subs, work.sigma2[lane]);
        }
    }
}

impl BlockEncoder<256> for Iq1<16> {
    type Block = IQ1M;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let work = Work::new(s, batch);
        let subs: [[SubBlock; 16]; LANES] = sub_blocks::<S, 16, 16>(s, batch, &work, TINY_M, Splits::halves);
        for (lane, (out, subs)) in out.iter_mut().zip(&subs).enumerate() {
            *out = finish_m(&work.x_rows[lane], &work.w_rows[lane], subs, work.sigma2[lane]);
        }
    }
}

/// Values and weights lane by lane.
#[repr(C, align(64))]
struct Work {
    x_rows: [[f32; 256]; LANES],
    w_rows: [[f32; 256]; LANES],
    sigma2: [f32; LANES],
}

impl Work {
    #[inline(always)]
    fn new<S: Lanes>(s: S, batch: &Batch<256>) -> Self {
        let sigma2 = s.splat(2.0) * energy(s, &batch.x) / s.splat(256.0);
        let mut w = Aligned([[0.0; LANES]; 256]);
        if batch.weighted {
            importance(s, &batch.x, &batch.qw, sigma2, &mut w);
        } else {
            squares(s, &batch.x, &mut w);
        }
        let zero = [[0.0; 256]; LANES];
        let mut work = Self { x_rows: zero, w_rows: zero, sigma2: [0.0; LANES] };
        s.store(sigma2, &mut work.sigma2);
        to_rows(s, &batch.x, &mut work.x_rows);
        to_rows(s, &w, &mut work.w_rows);
        work
    }
}

/// A tile lane by lane.
#[inline(always)]
fn to_rows<S: Lanes, const N: usize>(s: S, tile: &Tile<N>, rows: &mut [[f32; N]; LANES]) {
    for (at, columns) in tile.as_chunks::<LANES>().0.iter().enumerate() {
        let mut square = [s.splat(0.0); LANES];
        for (line, column) in square.iter_mut().zip(columns) {
            *line = s.load(column);
        }
        for (row, line) in rows.iter_mut().zip(s.transpose(square)) {
            s.store(line, &mut row.as_chunks_mut().0[at]);
        }
    }
}

/// Rows as a tile.
#[inline(always)]
fn to_tile<S: Lanes, const N: usize>(s: S, rows: &[[f32; N]; LANES], tile: &mut Tile<N>) {
    for (at, columns) in tile.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut square = [s.splat(0.0); LANES];
        for (line, row) in square.iter_mut().zip(rows) {
            *line = s.load(&row.as_chunks().0[at]);
        }
        for (column, line) in columns.iter_mut().zip(s.transpose(square)) {
            s.store(line, column);
        }
    }
}

/// All `SUBS` sub-blocks of `N` values of sixteen blocks.
#[inline(always)]
fn sub_blocks<S: Lanes, const N: usize, const SUBS: usize>(
    s: S,
    batch: &Batch<256>,
    work: &Work,
    tiny: f32,
    best: impl Fn(S, &Tile<N>, &Tile<N>, &[[u8; N]; LANES]) -> Splits<S>,
) -> [[SubBlock; SUBS]; LANES] {
    let mut subs = [[SubBlock::NONE; SUBS]; LANES];
    for (sub, x) in batch.x.as_chunks::<N>().0.iter().enumerate() {
        let mut max = s.abs(s.load(&x[0]));
        for x in &x[1..] {
            max = s.max(max, s.abs(s.load(x)));
        }
        let mut dead = [0.0; LANES];
        s.store(s.select(s.less(max, s.splat(tiny)), s.splat(1.0), s.splat(0.0)), &mut dead);

        let mut order = [[0; N]; LANES];
        let (mut wx_rows, mut w_rows) = (Aligned([[0.0; N]; LANES]), Aligned([[0.0; N]; LANES]));
        for lane in 0..LANES {
            let (x, w) = (part::<N>(&work.x_rows[lane], sub), part::<N>(&work.w_rows[lane], sub));
            order[lane] = sorted::<N>(x);
            for (place, &i) in order[lane].iter().enumerate() {
                let i = usize::from(i);
                (wx_rows[lane][place], w_rows[lane][place]) = (w[i] * x[i], w[i]);
            }
        }
        let (mut wx, mut w) = (Aligned([[0.0; LANES]; N]), Aligned([[0.0; LANES]; N]));
        to_tile(s, &wx_rows, &mut wx);
        to_tile(s, &w_rows, &mut w);
        let splits = best(s, &wx, &w, &order).store(s);
        for (lane, split) in splits.into_iter().enumerate() {
            if let Some(split) = split.filter(|_| dead[lane] == 0.0) {
                let (x, w) = (part::<N>(&work.x_rows[lane], sub), part::<N>(&work.w_rows[lane], sub));
                subs[lane][sub] = to_grid(x, w, &order[lane], split, |code, x, w, scale, down| {
                    match codebook::iq1().find_tiles(code) {
                        FoundTiles::On(index) => (index, false),
                        FoundTiles::Off(near, tiles) => {
                            // 2 level + 1 becomes the shifted value; both steps are exact.
                            let lowest = s.splat(if down { DOWN } else { UP }[0] - 0.5);
                            let value = |q| q * s.splat(0.5) + lowest;
                            (nearest::point(s, near, tiles, x, w, scale, value), true)
                        }
                    }
                });
            }
        }
    }
    subs
}

fn part<const N: usize>(row: &[f32; 256], sub: usize) -> &[f32; N] {
    &row.as_chunks().0[sub]
}

/// The best split found so far in each lane.
struct Splits<S: Lanes> {
    best: S::F,
    scale: S::F,
    low: S::F,
    middle: S::F,
    /// Which halves are shifted down: 2 for the first, 1 for the second. Negative: none was found.
    down: S::F,
}

impl<S: Lanes> Splits<S> {
    #[inline(always)]
    fn none(s: S) -> Self {
        let zero = s.splat(0.0);
        Self { best: s.splat(-f32::MAX), scale: zero, low: zero, middle: zero, down: s.splat(-1.0) }
    }

    /// Takes a split if it is better.
    #[inline(always)]
    fn offer(&mut self, s: S, sum_qx: S::F, sum_q2: S::F, low: usize, middle: usize, down: u8) {
        let better = s.both(s.less(s.splat(0.0), sum_q2), s.less(self.best * sum_q2, sum_qx * sum_qx));
        if s.any(better) {
            let scale = sum_qx / sum_q2;
            self.best = s.select(better, scale * sum_qx, self.best);
            self.scale = s.select(better, scale, self.scale);
            self.low = s.select(better, s.splat(low as f32), self.low);
            self.middle = s.select(better, s.splat(middle as f32), self.middle);
            self.down = s.select(better, s.splat(f32::from(down)), self.down);
        }
    }

    #[inline(always)]
    fn store(self, s: S) -> [Option<Split>; LANES] {
        let mut fields = [[0.0; LANES]; 4];
        for (field, value) in fields.iter_mut().zip([self.scale, self.low, self.middle, self.down]) {
            s.store(value, field);
        }
        let [scale, low, middle, down] = fields;
        std::array::from_fn(|i| {
            (down[i] >= 0.0).then(|| Split {
                scale: scale[i],
                low: low[i] as usize,
                middle: middle[i] as usize,
                down: [down[i] >= 2.0, down[i] as u8 % 2 == 1],
            })
        })
    }

    /// `iq1_s`: the sub-block is shifted as one. `wx` and `w` are sorted by value.
    #[inline(always)]
    fn whole(s: S, wx: &Tile<32>, w: &Tile<32>, _order: &[[u8; 32]; LANES]) -> Self {
        const N: usize = 32;
        let zero = s.splat(0.0);
        let (mut sum_x, mut sum_w) = ([zero; N + 1], [zero; N + 1]);
        for j in 0..N {
            sum_x[j + 1] = sum_x[j] + s.load(&wx[j]);
            sum_w[j + 1] = sum_w[j] + s.load(&w[j]);
        }
        // The middle value is the same up and down except for its sign, so its products are, too.
        let shift = s.splat(UP[1]);
        let outer = [[s.splat(UP[0]), s.splat(UP[2])], [s.splat(DOWN[0]), s.splat(DOWN[2])]];
        let mut high = [[[zero; 2]; 2]; N + 1];
        for (middle, high) in high.iter_mut().enumerate() {
            let (x2, w2) = (sum_x[N] - sum_x[middle], sum_w[N] - sum_w[middle]);
            for (high, [_, v]) in high.iter_mut().zip(outer) {
                *high = [x2 * v, w2 * v * v];
            }
        }
        let mut splits = Self::none(s);
        for low in 0..=N {
            let (x0, w0) = (sum_x[low] - sum_x[0], sum_w[low] - sum_w[0]);
            let mut lows = [[zero; 2]; 2];
            for (low, [v, _]) in lows.iter_mut().zip(outer) {
                *low = [x0 * v, w0 * v * v];
            }
            for middle in low..=N {
                let x1 = (sum_x[middle] - sum_x[low]) * shift;
                let w1 = (sum_w[middle] - sum_w[low]) * shift * shift;
                let high = &high[middle];
                splits.offer(s, lows[0][0] + x1 + high[0][0], lows[0][1] + w1 + high[0][1], low, middle, 0);
                splits.offer(s, lows[1][0] - x1 + high[1][0], lows[1][1] + w1 + high[1][1], low, middle, 3);
            }
        }
        splits
    }

    /// `iq1_m`: each half is shifted for itself.
    #[inline(always)]
    fn halves(s: S, wx: &Tile<16>, w: &Tile<16>, order: &[[u8; 16]; LANES]) -> Self {
        const N: usize = 16;
        let zero = s.splat(0.0);
        let (mut sum_x, mut sum_w) = ([[zero; N + 1]; 2], [[zero; N + 1]; 2]);
        for j in 0..N {
            let half: [f32; LANES] = std::array::from_fn(|lane| if order[lane][j] < 8 { 0.0 } else { 1.0 });
            let first = s.equal(s.load(&half), zero);
            let (wx, w) = (s.load(&wx[j]), s.load(&w[j]));
            for h in 0..2 {
                let (x, w) = (sum_x[h][j] + wx, sum_w[h][j] + w);
                let (old_x, old_w) = (sum_x[h][j], sum_w[h][j]);
                sum_x[h][j + 1] = if h == 0 { s.select(first, x, old_x) } else { s.select(first, old_x, x) };
                sum_w[h][j + 1] = if h == 0 { s.select(first, w, old_w) } else { s.select(first, old_w, w) };
            }
        }
        // Per half and shift: what does not depend on the split, and what a split's two places add.
        let values = [UP, DOWN];
        let mut total = [[[zero; 2]; 2]; 2];
        let mut upper = [[[zero; N + 1]; 2]; 2];
        for h in 0..2 {
            for (shift, v) in values.into_iter().enumerate() {
                let top = s.splat(v[2]);
                total[h][shift] = [sum_x[h][N] * top, sum_w[h][N] * top * top];
                for middle in 0..=N {
                    upper[h][shift][middle] = sum_w[h][middle] * s.splat(v[1] * v[1] - v[2] * v[2]);
                }
            }
        }
        let mut splits = Self::none(s);
        for low in 0..=N {
            let mut base = [[zero; 2]; 2];
            for h in 0..2 {
                for (shift, v) in values.into_iter().enumerate() {
                    base[h][shift] = total[h][shift][1] + sum_w[h][low] * s.splat(v[0] * v[0] - v[1] * v[1]);
                }
            }
            for middle in low..=N {
                let mut halves = [[[zero; 2]; 2]; 2];
                for h in 0..2 {
                    let off = sum_x[h][low] + sum_x[h][middle];
                    for shift in 0..2 {
                        let sum_q2 = base[h][shift] + upper[h][shift][middle];
                        halves[h][shift] = [total[h][shift][0] - off, sum_q2];
                    }
                }
                for down in 0..4u8 {
                    let first = halves[0][usize::from(down >> 1)];
                    let second = halves[1][usize::from(down & 1)];
                    splits.offer(s, first[0] + second[0], first[1] + second[1], low, middle, down);
                }
            }
        }
        splits
    }
}

//! Formats of weights on a card: the planes of each, the arguments of the kernels that read them, and how a
//! matrix-vector product is launched.
//!
//! Mirrors `kernels/decode.cuh` (planes), `kernels/repack.cu` and `kernels/matvec/args.cuh` (arguments),
//! `kernels/matvec/prologue.cuh` (shared memory). No GPU calls.

use quern_tensor_io::ElementType;

/// A plane of a format: records of `bytes` bytes, one for each `values` consecutive values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Bytes of a record.
    pub bytes: usize,
    /// Values of a row that it is for.
    pub values: usize,
}

/// Planes as `bytes for values`.
macro_rules! planes {
    ($($bytes:literal for $values:literal),*) => { &[$(Plane { bytes: $bytes, values: $values }),*] };
}

/// Most planes that a format has.
pub const MAX_PLANES: usize = 5;
/// Every plane starts at a multiple of this many bytes.
pub const PLANE_ALIGN: usize = 256;
/// Threads of a block of the matvec kernels.
pub const MATVEC_BLOCK: u32 = 1024;
/// Most tokens of a matvec launch.
pub const MATVEC_TOKENS: usize = 4;
/// Threads of a block of the repack kernels, each with one chunk.
pub const REPACK_BLOCK: u64 = 256;

/// Most regions that a launch prefetches.
pub const MATVEC_REGIONS: usize = 8;
/// A format of weights that the kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    element_type: ElementType,
    name: &'static str,
    planes: &'static [Plane],
    /// Sums of codes that the input has for each 32 values (`Input::SUMS`).
    sums: usize,
}

impl Format {
    /// The format of an element type; `None` where the kernels have none.
    pub const fn of(element_type: ElementType) -> Option<Self> {
        use ElementType as T;
        const C4_F16: &[Plane] = planes![16 for 32, 2 for 32];
        let (name, sums, planes): (_, _, &[Plane]) = match element_type {
            T::F32 => ("f32", 0, planes![16 for 4]),
            T::F16 => ("f16", 0, planes![16 for 8]),
            T::BF16 => ("bf16", 0, planes![16 for 8]),
            T::Q4_0 => ("q4_0", 1, C4_F16),
            T::Q4_1 => ("q4_1", 1, planes![16 for 32, 4 for 32]),
            T::Q5_0 => ("q5_0", 1, planes![16 for 32, 4 for 32, 2 for 32]),
            T::Q5_1 => ("q5_1", 1, planes![16 for 32, 4 for 32, 4 for 32]),
            T::Q8_0 => ("q8_0", 0, planes![16 for 32, 16 for 32, 2 for 32]),
            T::IQ4NL => ("iq4_nl", 0, C4_F16),
            T::NF4 => ("nf4", 0, C4_F16),
            T::FP4 => ("fp4", 0, C4_F16),
            T::MXFP4 => ("mxfp4", 0, planes![16 for 32, 1 for 32]),
            T::NVFP4 => ("nvfp4", 0, C4_F16),
            T::Q1_0 => ("q1_0", 1, planes![4 for 32, 2 for 128]),
            T::Q2_0 => ("q2_0", 1, planes![8 for 32, 2 for 64]),
            T::Q2K => ("q2_k", 2, planes![8 for 32, 2 for 32, 4 for 256]),
            T::Q3K => ("q3_k", 2, planes![8 for 32, 4 for 32, 1 for 32, 4 for 256, 2 for 256]),
            T::Q4K => ("q4_k", 1, planes![16 for 32, 16 for 256]),
            T::Q5K => ("q5_k", 1, planes![16 for 32, 4 for 32, 16 for 256]),
            T::Q6K => ("q6_k", 2, planes![16 for 32, 8 for 32, 2 for 32, 2 for 256]),
            T::IQ4XS => ("iq4_xs", 0, planes![16 for 32, 8 for 256]),
            T::TQ1_0 => ("tq1_0", 1, planes![8 for 32, 2 for 256]),
            T::TQ2_0 => ("tq2_0", 1, planes![8 for 32, 2 for 256]),
            T::IQ1S => ("iq1_s", 1, planes![4 for 32, 2 for 32, 2 for 256]),
            T::IQ1M => ("iq1_m", 2, planes![4 for 32, 2 for 32, 8 for 256]),
            T::IQ2XXS => ("iq2_xxs", 0, planes![8 for 32, 2 for 256]),
            T::IQ2XS => ("iq2_xs", 0, planes![8 for 32, 1 for 32, 2 for 256]),
            T::IQ2S => ("iq2_s", 0, planes![8 for 32, 2 for 32, 2 for 256]),
            T::IQ3XXS => ("iq3_xxs", 0, planes![8 for 32, 4 for 32, 2 for 256]),
            T::IQ3S => ("iq3_s", 0, planes![8 for 32, 4 for 32, 1 for 32, 4 for 256, 2 for 256]),
            T::F64
            | T::F8E4M3
            | T::F8E5M2
            | T::I8
            | T::I16
            | T::I32
            | T::I64
            | T::U8
            | T::U16
            | T::U32
            | T::U64
            | T::Bool
            | T::Q8_1
            | T::Q8K => return None,
        };
        Some(Self { element_type, name, planes, sums })
    }

    /// The name in modules and kernels: `matvec_NAME`, `matmul_NAME`, `repack_NAME`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Its planes, in order.
    pub const fn planes(self) -> &'static [Plane] {
        self.planes
    }

    /// Whether it is f16, bf16 or f32: rows of any length, padded to [`Self::padded`] columns in the plane.
    pub const fn is_float(self) -> bool {
        self.element_type.is_float()
    }

    /// Columns of a row in the planes: a multiple of 32. Block formats have whole blocks anyway.
    pub const fn padded(self, columns: usize) -> usize {
        columns.div_ceil(32) * 32
    }

    /// Where each plane of `rows` rows starts, and the bytes of all of them; `None` if that overflows.
    pub fn layout(self, rows: usize, columns: usize) -> Option<([usize; MAX_PLANES], usize)> {
        let (mut starts, mut end) = ([0; MAX_PLANES], 0usize);
        for (start, plane) in starts.iter_mut().zip(self.planes) {
            *start = end;
            let bytes = rows.checked_mul(self.padded(columns) / plane.values)?.checked_mul(plane.bytes)?;
            end = end.checked_add(bytes)?.checked_next_multiple_of(PLANE_ALIGN)?;
        }
        Some((starts, end))
    }

    /// Bytes on the card of a matrix (a stack of experts: of all their rows).
    pub fn bytes(self, rows: usize, columns: usize) -> Option<usize> {
        self.layout(rows, columns).map(|(_, bytes)| bytes)
    }

    /// The kernel of module `repack` that makes the planes.
    pub fn repack_kernel(self) -> String {
        match self.element_type.block_bytes() {
            bytes if self.is_float() => format!("repack_{}", 8 * bytes),
            _ => format!("repack_{}", self.name),
        }
    }

    /// Values of a row that a lane takes at a time (`F::PIECE`).
    const fn piece(self) -> usize {
        if self.is_float() { self.planes[0].values } else { 32 }
    }

    /// Bytes that one input vector takes in shared memory (`Input::vector_bytes`).
    pub const fn input_bytes(self, columns: usize) -> usize {
        let piece_bytes = if self.is_float() { 4 * self.piece() } else { 36 + 4 * self.sums };
        (self.padded(columns) / self.piece() * piece_bytes).next_multiple_of(16)
    }

    /// Most vectors (tokens, or slots with `sum_slots`) that a launch may have at this many columns. `shared` is what the
    /// card allows a block, less what the kernel has statically. 0: the columns are too many for the card.
    pub const fn matvec_vectors(self, columns: usize, shared: usize) -> usize {
        if let Some(vectors) = shared.checked_div(self.input_bytes(columns)) {
            vectors
        } else {
            MATVEC_TOKENS
        }
    }

    /// How a matvec over `rows` rows is launched (all matrices' rows; a gated pair's once; experts: of all slots, unless
    /// they are summed) with `vectors` input vectors.
    pub fn matvec(self, rows: usize, columns: usize, vectors: usize, multiprocessors: usize) -> MatvecLaunch {
        MatvecLaunch {
            grid: multiprocessors.min(rows).max(1) as u32,
            shared: (vectors * self.input_bytes(columns)) as u32,
        }
    }
}

/// About `budget` bytes that a launch reads first: what [`MatvecArgs::ahead`] of the launch before it gets, and how many
/// regions. `format` and `matrices` are those of the launch; `gated`: a gated pair, read row by row together.
pub fn ahead(
    format: Format,
    matrices: &[MatrixArgs],
    gated: bool,
    budget: usize,
) -> ([Region; MATVEC_REGIONS], i32) {
    let row_bytes =
        |m: &MatrixArgs, plane: &Plane| format.padded(m.columns.max(0) as usize) / plane.values * plane.bytes;
    let rows: usize = matrices.iter().map(|m| m.rows.max(0) as usize).sum();
    let bytes: usize = matrices
        .iter()
        .map(|m| m.rows.max(0) as usize * format.planes.iter().map(|p| row_bytes(m, p)).sum::<usize>())
        .sum();
    let mut left = if bytes <= budget { rows } else { (rows as u64 * budget as u64 / bytes as u64) as usize };
    let (each, mut regions) = (left / matrices.len().max(1), Vec::new());
    for m in matrices {
        let take = if gated { each } else { left.min(m.rows.max(0) as usize) };
        left -= if gated { 0 } else { take };
        regions.extend(format.planes.iter().zip(m.plane).map(|(plane, address)| Region {
            address,
            bytes: (take * row_bytes(m, plane) / 16 * 16) as u64,
        }));
    }
    regions.retain(|r| r.bytes > 0);
    regions.sort_by_key(|r| std::cmp::Reverse(r.bytes));
    regions.truncate(MATVEC_REGIONS);
    let mut out = [Region::default(); MATVEC_REGIONS];
    out[..regions.len()].copy_from_slice(&regions);
    (out, regions.len() as i32)
}

/// A matvec launch; blocks have [`MATVEC_BLOCK`] threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatvecLaunch {
    /// Blocks.
    pub grid: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// `Matrix` of `decode.cuh`. Addresses are the card's; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MatrixArgs {
    /// Where each plane starts.
    pub plane: [u64; MAX_PLANES],
    /// Rows: of one expert, in a stack.
    pub rows: i32,
    /// Columns.
    pub columns: i32,
}

/// `RepackArgs` of `repack.cu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RepackArgs {
    /// Where the matrix's first raw byte would be: the piece's address less its offset in the matrix (wrapping).
    pub raw: u64,
    /// First chunk of 32 values of the piece.
    pub first: u64,
    /// Chunks of the piece.
    pub chunks: u64,
    /// The matrix to be made.
    pub matrix: MatrixArgs,
}

/// `Region` of `matvec/args.cuh`: bytes on the card, a multiple of 16 at a multiple of 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// Where it starts.
    pub address: u64,
    /// How long it is.
    pub bytes: u64,
}

/// [`MatvecArgs::prologue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum MatvecPrologue {
    /// The input as it is.
    Plain = 0,
    /// RMS norm.
    RmsNorm = 1,
    /// LayerNorm.
    LayerNorm = 2,
}

/// [`MatvecArgs::epilogue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum MatvecEpilogue {
    /// `out = act(W x + bias)`.
    Store = 0,
    /// `out += act(W x + bias)`.
    Add = 1,
    /// `out = act(W0 x + bias0) * (W1 x + bias1)`.
    Gated = 2,
}

/// [`MatvecArgs::activation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum MatvecActivation {
    /// None.
    None = 0,
    /// SiLU.
    Silu = 1,
    /// GELU by the error function.
    Gelu = 2,
    /// GELU's tanh approximation.
    GeluTanh = 3,
    /// `max(x, 0)`.
    Relu = 4,
    /// [`Activation::ClampedSwiglu`](crate::ops::Activation::ClampedSwiglu).
    ClampedSwiglu = 5,
    /// `max(x, 0)²`.
    ReluSquared = 6,
}

/// `MatvecArgs` of `matvec/args.cuh`. Addresses are the card's, 0 is none; strides are in values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct MatvecArgs {
    /// One to three matrices of one format and as many columns; two if gated, one (or a gated pair) with experts.
    pub m: [MatrixArgs; 3],
    /// f32 `[rows]`, or `[experts][rows]`.
    pub bias: [u64; 3],
    /// f32 `[vectors][x_stride]`.
    pub x: u64,
    /// i32 `[columns]`: column j multiplies `x[permutation[j]]`.
    pub permutation: u64,
    /// f32 `[columns]`.
    pub norm_weight: u64,
    /// f32 `[columns]`.
    pub norm_bias: u64,
    /// f32 `[tokens][out_stride]`.
    pub out: u64,
    /// i32 `[slots]`.
    pub expert: u64,
    /// f32 `[slots]`.
    pub share: u64,
    /// Values from one input vector to the next.
    pub x_stride: i32,
    /// Values from one token's output to the next.
    pub out_stride: i32,
    /// How many of `m`.
    pub matrices: i32,
    /// A [`MatvecPrologue`].
    pub prologue: i32,
    /// A [`MatvecEpilogue`].
    pub epilogue: i32,
    /// A [`MatvecActivation`].
    pub activation: i32,
    /// Experts of this token; 1 without experts.
    pub slots: i32,
    /// Not 0: slot s multiplies vector s, and the output is the sum over the slots.
    pub sum_slots: i32,
    /// How many of `ahead`.
    pub regions: i32,
    /// Of the norm.
    pub eps: f32,
    /// A factor of the input, after the norm; 1 for none.
    pub x_scale: f32,
    /// Not 0: `share` is a factor of each slot's input, not of its result, biases within.
    pub share_input: i32,
    /// Brought to the second cache by warps that have no more rows (compute capability 9.0 on): what the next launch
    /// reads first, see [`ahead`].
    pub ahead: [Region; MATVEC_REGIONS],
}

const _: () = {
    assert!(size_of::<MatrixArgs>() == 48);
    assert!(size_of::<RepackArgs>() == 72);
    assert!(size_of::<MatvecArgs>() == 400);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_as_many_bytes_as_the_file() {
        for &t in ElementType::ALL {
            let Some(format) = Format::of(t) else { continue };
            let per_1024: usize = format.planes().iter().map(|p| 1024 / p.values * p.bytes).sum();
            let recoded = if t == ElementType::TQ1_0 { 4 * (66 - 54) } else { 0 };
            assert_eq!(per_1024, t.row_bytes(1024).unwrap() + recoded, "{t}");
            assert_eq!(format.name(), t.name().to_lowercase());
            assert!(format.planes().len() <= MAX_PLANES);
        }
    }

    #[test]
    fn planes_start_aligned_and_apart() {
        let format = Format::of(ElementType::Q6K).unwrap();
        let (starts, bytes) = format.layout(3, 256).unwrap();
        assert_eq!((starts, bytes), ([0, 512, 768, 1024, 0], 1280));
        assert_eq!(Format::of(ElementType::F16).unwrap().bytes(5, 20), Some(512));
        assert_eq!(format.layout(usize::MAX / 8, 4096), None);
    }

    #[test]
    fn launches_stay_within_the_card() {
        for (multiprocessors, shared) in [(132, 210 * 1024), (40, 63 * 1024)] {
            for &t in ElementType::ALL {
                let Some(format) = Format::of(t) else { continue };
                for columns in [256, 2048, 4096, 14336] {
                    let vectors = format.matvec_vectors(columns, shared).min(MATVEC_TOKENS);
                    assert!(vectors >= 1, "{t} {columns}");
                    let launch = format.matvec(6144, columns, vectors, multiprocessors);
                    assert_eq!(launch.grid, multiprocessors as u32);
                    assert!(launch.shared as usize <= shared, "{t} {columns}: {launch:?}");
                }
            }
        }
        assert_eq!(Format::of(ElementType::Q4_0).unwrap().input_bytes(4096), 128 * 40);
    }

    #[test]
    fn what_is_read_first_is_prefetched() {
        let format = Format::of(ElementType::Q4_0).unwrap();
        let m = |at: u64, rows| MatrixArgs { plane: [at, at + 8, 0, 0, 0], rows, columns: 4096 };
        // All of q and half of k: codes and scales.
        let group = [m(1000, 64), m(2000, 32), m(3000, 32)];
        let (regions, count) = ahead(format, &group, false, 80 * 128 * 18);
        let sizes: Vec<_> = regions[..count as usize].iter().map(|r| (r.address, r.bytes)).collect();
        assert_eq!(sizes, [(1000, 64 * 2048), (2000, 16 * 2048), (1008, 64 * 256), (2008, 16 * 256)]);
        let (regions, count) = ahead(format, &[m(1000, 64), m(2000, 64)], true, usize::MAX);
        assert_eq!((count, regions[0].bytes, regions[1].bytes), (4, 64 * 2048, 64 * 2048));
    }
}

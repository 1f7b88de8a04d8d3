//! Linear layers for up to four tokens: one launch with the norm in front and what is done with the results.

use super::super::formats::{
    Format, MATVEC_BLOCK, MatrixArgs, MatvecActivation, MatvecArgs, MatvecEpilogue, ahead,
};
use super::super::{Matrix, Pointer, Region};
use super::linear::{FEW, Source, Target, Then};
use super::rows::{norm_kind, parameters};
use super::{Executor, Geometry};
use crate::Result;
use crate::executor::{Linear, Norm};
use crate::ops::Activation;

/// Bytes of the next product's weights that a launch brings into the level-2 cache: more would delay the launch itself.
const AHEAD: usize = 4 << 20;

/// Matrices of one launch.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub format: Format,
    pub matrices: Vec<MatrixArgs>,
    pub gated: bool,
}

/// The number of an activation function in `matvec.cu`.
pub(super) fn activation(act: Activation) -> i32 {
    (match act {
        Activation::Silu => MatvecActivation::Silu,
        Activation::ClampedSwiglu => MatvecActivation::ClampedSwiglu,
        Activation::Gelu => MatvecActivation::Gelu,
        Activation::GeluTanh => MatvecActivation::GeluTanh,
        Activation::Relu => MatvecActivation::Relu,
        Activation::ReluSquared => MatvecActivation::ReluSquared,
    }) as i32
}

/// Rows of a layer, as a launch takes them, and the address of their bias.
pub(super) fn matrix(linear: &Linear, first: usize, rows: usize) -> Result<(MatrixArgs, u64)> {
    let matrix = linear.weight.cuda()?;
    let bias = linear.cuda_bias()?;
    Ok((matrix_of(matrix, first, rows), bias.map_or(0, |bias| bias.pointer().at(4 * first).address())))
}

/// Rows of a matrix, as a launch takes them.
pub(super) fn matrix_of(matrix: &Matrix, first: usize, rows: usize) -> MatrixArgs {
    let plane = matrix.planes(first).map(Pointer::address);
    MatrixArgs { plane, rows: rows as i32, columns: matrix.columns as i32 }
}

impl Executor {
    /// Layers of one format and order, whose results are side by side.
    pub(super) fn few(
        &mut self,
        linears: &[&Linear],
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let mut arguments = MatvecArgs::default();
        for (at, linear) in linears.iter().enumerate() {
            (arguments.m[at], arguments.bias[at]) = matrix(linear, 0, linear.weight.rows())?;
        }
        arguments.matrices = linears.len() as i32;
        arguments.epilogue = match then {
            Then::Add => MatvecEpilogue::Add,
            Then::Store | Then::Activate(_) => MatvecEpilogue::Store,
        } as i32;
        arguments.activation = match then {
            Then::Activate(act) => activation(act),
            Then::Store | Then::Add => MatvecActivation::None as i32,
        };
        let rows = linears.iter().map(|l| l.weight.rows()).sum();
        self.matvec(linears[0], rows, source, target, arguments)
    }

    /// `act(gate) * up` in one launch.
    pub(super) fn few_gated(
        &mut self,
        linears: &[&Linear],
        act: Activation,
        source: Source<'_>,
        target: Target,
    ) -> Result<()> {
        let width = target.stride;
        let mut arguments = MatvecArgs::default();
        let pair = match linears {
            [gate, up] => [(*gate, 0), (*up, 0)],
            _ => [(linears[0], 0), (linears[0], width)],
        };
        for (at, (linear, first)) in pair.into_iter().enumerate() {
            (arguments.m[at], arguments.bias[at]) = matrix(linear, first, width)?;
        }
        arguments.matrices = 2;
        arguments.epilogue = MatvecEpilogue::Gated as i32;
        arguments.activation = activation(act);
        self.matvec(linears[0], width, source, target, arguments)
    }

    /// How many tokens one launch takes; 0 if the input of one does not fit into a block's shared memory.
    pub(super) fn most_vectors(&self, linear: &Linear) -> Result<usize> {
        Ok(linear.weight.cuda()?.most_vectors().min(FEW))
    }

    fn matvec(
        &mut self,
        linear: &Linear,
        rows: usize,
        source: Source<'_>,
        target: Target,
        mut arguments: MatvecArgs,
    ) -> Result<()> {
        let matrix = linear.weight.cuda()?;
        let (format, columns) = (matrix.format, matrix.columns);
        let most = self.most_vectors(linear)?;
        if let Some(order) = linear.cuda_permutation()? {
            arguments.permutation = order.on(&self.card)?.pointer().address();
        }
        self.normalize(&mut arguments, source.norm)?;
        arguments.x_stride = columns as i32;
        arguments.out_stride = target.stride as i32;
        arguments.slots = 1;
        arguments.x_scale = 1.0;
        let gated = arguments.epilogue == MatvecEpilogue::Gated as i32;
        let matrices = arguments.m[..arguments.matrices as usize].to_vec();
        if let Some(next) = self.recording.next_product(Product { format, matrices, gated }) {
            let Product { format, matrices, gated } = next;
            (arguments.ahead, arguments.regions) = ahead(*format, matrices, *gated, AHEAD);
        }
        let mut first = 0;
        while first < source.tokens {
            let tokens = most.min(source.tokens - first);
            arguments.x = source.x.at(4 * first * columns).address();
            arguments.out = target.out.at(4 * first * target.stride).address();
            let kernel = ["matvec_1", "matvec_2", "matvec_3", "matvec_4"][tokens - 1];
            self.launch_matvec(format, kernel, rows, tokens, &arguments)?;
            first += tokens;
        }
        Ok(())
    }

    /// Puts a norm in front of a launch.
    pub(super) fn normalize(&self, arguments: &mut MatvecArgs, norm: Option<&Norm>) -> Result<()> {
        let Some(norm) = norm else { return Ok(()) };
        let (weight, bias) = parameters(norm)?;
        arguments.norm_weight = Region::on(weight, &self.card)?.pointer().address();
        arguments.norm_bias = bias.address();
        arguments.prologue = norm_kind(norm);
        arguments.eps = norm.epsilon;
        Ok(())
    }

    /// Queues a launch over `rows` rows in all, with `vectors` input vectors.
    pub(super) fn launch_matvec(
        &mut self,
        format: Format,
        kernel: &str,
        rows: usize,
        vectors: usize,
        arguments: &MatvecArgs,
    ) -> Result<()> {
        let processors = self.card.info().multiprocessors;
        let launch = format.matvec(rows, arguments.m[0].columns as usize, vectors, processors);
        let geometry = Geometry { grid: [launch.grid, 1, 1], block: MATVEC_BLOCK, shared: launch.shared };
        // SAFETY: matrices, input and output are rows of these lengths, as the callers checked.
        unsafe { self.launch(&format!("matvec_{}", format.name()), kernel, geometry, arguments) }
    }
}

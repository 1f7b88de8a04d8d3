//! Linear layers for many tokens: activations are brought into the order of the tensor cores once, then multiplied.

use super::super::Pointer;
use super::super::formats::Format;
use super::super::matmul_args::{
    GATE_CLAMPED_SWIGLU, GATE_GELU_TANH, GATE_RELU, GATE_SILU, MODE_ADD, MODE_GATED, MODE_STORE, MatmulArgs,
    MatmulF32Args, MatmulMatrixArgs, PrepareArgs, WEIGHT_FACTOR,
};
use super::super::matmul_plan::{MatmulPlan, PreparePlan, plan_f32};
use super::few;
use super::linear::{Source, Target, Then};
use super::rows::{norm_kind, parameters};
use super::{Executor, Geometry};
use quern_tensor_io::ElementType;

use crate::Result;
use crate::executor::Linear;
use crate::ops::Activation;

/// Matrices of one launch, with where their results go.
struct Product<'a> {
    matrices: &'a [MatmulMatrixArgs],
    mode: u32,
    gate: [f32; 2],
    limit: f32,
}

impl Executor {
    /// Layers of one format and order, whose results are side by side.
    pub(super) fn many(
        &mut self,
        linears: &[&Linear],
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let first = linears[0].weight.cuda()?;
        let columns = first.columns;
        if first.element_type == ElementType::F32 {
            return self.many_f32(linears, source, target, then);
        }
        let mut at = 0;
        let mut matrices = Vec::with_capacity(linears.len());
        for linear in linears {
            matrices.push(matrix(linear, 0, linear.weight.rows(), target.out.at(4 * at), target.stride)?);
            at += linear.weight.rows();
        }
        let mode = if then == Then::Add { MODE_ADD } else { MODE_STORE };
        self.prepare(linears[0], source, columns)?;
        let product = Product { matrices: &matrices, mode, gate: [0.0; 2], limit: 0.0 };
        self.product(first.format, columns, source.tokens, product)?;
        match then {
            Then::Activate(act) => self.activate(act, source.tokens, at, target),
            Then::Store | Then::Add => Ok(()),
        }
    }

    /// `act(gate) * up` in one launch, if the kernels have the function; whether it was done.
    pub(super) fn many_gated(
        &mut self,
        linears: &[&Linear],
        act: Activation,
        source: Source<'_>,
        target: Target,
    ) -> Result<bool> {
        let first = linears[0].weight.cuda()?;
        let (gate, limit) = match act {
            Activation::Silu => (GATE_SILU, 0.0),
            Activation::GeluTanh => (GATE_GELU_TANH, 0.0),
            Activation::Relu => (GATE_RELU, 0.0),
            Activation::ClampedSwiglu => GATE_CLAMPED_SWIGLU,
            Activation::Gelu | Activation::ReluSquared => return Ok(false),
        };
        if first.element_type == ElementType::F32 {
            return Ok(false);
        }
        let width = target.stride;
        let (columns, format) = (first.columns, first.format);
        let matrices = match linears {
            [gate, up] => [*gate, *up].map(|l| matrix(l, 0, width, target.out, target.stride)),
            _ => [0, width].map(|row| matrix(linears[0], row, width, target.out, target.stride)),
        };
        let [a, b] = matrices;
        self.prepare(linears[0], source, columns)?;
        let product = Product { matrices: &[a?, b?], mode: MODE_GATED, gate, limit };
        self.product(format, columns, source.tokens, product)?;
        Ok(true)
    }

    /// Brings the input into the form that the products read.
    fn prepare(&mut self, linear: &Linear, source: Source<'_>, columns: usize) -> Result<()> {
        let limit = self.card.info().shared_memory as u32;
        let plan = PreparePlan::new(columns as u32, source.tokens as u32, false, limit);
        let out = self.workspace.activations.of(&self.stream, plan.out_bytes as usize)?;
        let scale = self.workspace.scales.of(&self.stream, plan.scale_bytes as usize)?;
        let order = linear.cuda_permutation()?;
        let mut arguments = PrepareArgs {
            x: source.x.address(),
            permutation: order.map_or(0, |order| order.pointer().address()),
            out: out.address(),
            scale: scale.address(),
            n: source.tokens as u32,
            padded_n: plan.grid,
            columns: columns as u32,
            x_stride: columns as u32,
            cached: plan.cached,
            ..PrepareArgs::default()
        };
        if let Some(norm) = source.norm {
            let (weight, bias) = parameters(norm)?;
            arguments.weight = weight.on(&self.card)?.pointer().address();
            arguments.bias = bias.address();
            arguments.norm = norm_kind(norm) as u32;
            arguments.eps = norm.epsilon;
        }
        let geometry = Geometry { shared: plan.shared_bytes, ..Geometry::rows([plan.grid, 1, 1]) };
        // SAFETY: the input is whole rows, and the outputs have the sizes of the plan.
        unsafe { self.launch("prepare", "prepare_x16", geometry, &arguments) }
    }

    fn product(&mut self, format: Format, columns: usize, tokens: usize, product: Product<'_>) -> Result<()> {
        let Product { matrices, mode, gate, limit } = product;
        let processors = self.card.info().multiprocessors as u32;
        let mut rows = [0; 3];
        rows.iter_mut().zip(matrices).for_each(|(rows, matrix)| *rows = matrix.weights.rows as u32);
        let rows = &rows[..matrices.len()];
        let (n, gated) = (tokens as u32, mode == MODE_GATED);
        let plan = MatmulPlan::new(self.generation()?, rows, columns as u32, n, processors, gated);
        let mut matrix = [MatmulMatrixArgs::default(); 3];
        for ((to, from), first) in matrix.iter_mut().zip(matrices).zip(plan.first_tile) {
            *to = MatmulMatrixArgs { first_tile: first, ..*from };
        }
        let workspace = &mut self.workspace;
        let x = workspace.activations.of(&self.stream, 0)?;
        let x_scale = workspace.scales.of(&self.stream, 0)?;
        let arguments = MatmulArgs {
            matrix,
            x: x.address(),
            x_scale: x_scale.address(),
            sums: workspace.sums.of(&self.stream, plan.sums_bytes as usize)?.address(),
            ready: workspace.ready.of(&self.stream, plan.ready_bytes as usize)?.address(),
            n,
            padded_n: plan.padded_n,
            columns: columns as u32,
            steps: plan.steps,
            matrices: matrices.len() as u32,
            row_tiles: plan.row_tiles,
            token_tiles: plan.token_tiles,
            parts: plan.parts,
            mode,
            factor: if format.name() == "f16" { 1.0 } else { WEIGHT_FACTOR },
            gate,
            limit,
            unused: 0,
        };
        let geometry = Geometry { grid: [plan.grid, 1, 1], block: plan.block, shared: plan.shared_bytes };
        // SAFETY: matrices, input and workspace have the sizes that the plan gives for this product.
        unsafe { self.launch(&format!("matmul_{}", format.name()), plan.kernel, geometry, &arguments) }
    }

    /// Weights of f32 are multiplied in f32.
    fn many_f32(
        &mut self,
        linears: &[&Linear],
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let columns = linears[0].weight.columns();
        if !columns.is_multiple_of(32) && self.most_vectors(linears[0])? > 0 {
            // Rows are padded, which the input is not.
            return self.few(linears, source, target, then);
        }
        let bytes = 4 * source.tokens * columns;
        let mut x = source.x;
        if let Some(norm) = source.norm {
            let normed = self.workspace.vectors[1].of(&self.stream, bytes)?;
            self.norm_rows(norm, x, normed, source.tokens)?;
            x = normed;
        }
        if let Some(order) = linears[0].cuda_permutation()? {
            let permuted = self.workspace.vectors[2].of(&self.stream, bytes)?;
            self.permute(order.pointer(), source.tokens, columns, x, permuted)?;
            x = permuted;
        }
        let mut at = 0;
        for linear in linears {
            let rows = linear.weight.rows();
            let (kernel, [grid_x, grid_y]) = plan_f32(rows as u32, source.tokens as u32);
            let bias = linear.cuda_bias()?;
            let arguments = MatmulF32Args {
                weights: linear.weight.cuda()?.planes(0)[0].address(),
                x: x.address(),
                out: target.out.at(4 * at).address(),
                bias: bias.map_or(0, |bias| bias.pointer().address()),
                rows: rows as u32,
                columns: columns as u32,
                n: source.tokens as u32,
                x_stride: columns as u32,
                out_stride: target.stride as u32,
                add: u32::from(then == Then::Add),
            };
            let geometry = Geometry::rows([grid_x, grid_y, 1]);
            // SAFETY: matrix, input and output are rows of these lengths.
            unsafe { self.launch("matmul_f32", kernel, geometry, &arguments)? };
            at += rows;
        }
        match then {
            Then::Activate(act) => self.activate(act, source.tokens, at, target),
            Then::Store | Then::Add => Ok(()),
        }
    }
}

/// Rows of a layer, as a launch takes them.
fn matrix(
    linear: &Linear,
    first: usize,
    rows: usize,
    out: Pointer,
    stride: usize,
) -> Result<MatmulMatrixArgs> {
    let (mut weights, bias) = few::matrix(linear, first, rows)?;
    // The kernels read whole records.
    weights.columns = linear.weight.columns().next_multiple_of(32) as i32;
    Ok(MatmulMatrixArgs { weights, out: out.address(), bias, out_stride: stride as u32, first_tile: 0 })
}

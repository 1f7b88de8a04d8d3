//! A mixture of experts on a GPU: arguments, and experts that are stacked.
//!
//! A kernel finds the matrix of an expert that was chosen on the card only where all experts' matrices follow each other.
//! [`Uploader::stack`] puts them so if they are of one type and shape; each stays a layer that can be used by itself.

use super::upload::{bytes_of_linear, bytes_of_matrix};
use super::{Input, Linear, Norm, Routing, Uploader, ValuesMut, Weight};
use crate::Result;
use crate::ops::Activation;

/// Experts of one block whose matrices follow each other on a GPU.
#[derive(Clone, Debug)]
pub struct ExpertStacks {
    /// The first expert's.
    pub(crate) gate: Weight,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
}

/// The network of one block.
#[derive(Clone, Copy, Debug)]
pub struct Mixture<'a> {
    /// Gives a number for each expert.
    pub router: &'a Linear,
    /// Gate, up and down of each expert.
    pub experts: &'a [[&'a Linear; 3]],
    /// The same, if they are stacked.
    pub stacks: Option<&'a ExpertStacks>,
    /// How they are chosen.
    pub routing: Routing,
    /// Of the gate's results.
    pub activation: Activation,
}

/// What a mixture reads, and where its results go: `[tokens][hidden]`.
#[derive(Debug)]
pub enum Rows<'a> {
    /// `out = experts(input)`.
    Apart {
        /// What is read.
        input: Input<'a>,
        /// What is written.
        out: ValuesMut<'a>,
    },
    /// `x += experts(norm(x))`.
    InPlace {
        /// The norm in front of the experts and the router.
        norm: &'a Norm,
        /// The residual stream.
        x: ValuesMut<'a>,
    },
}

/// Whether layers can be put into one matrix.
fn stackable(linears: &[&Linear]) -> bool {
    let shape = |l: &Linear| (l.weight.element_type(), l.weight.rows(), l.weight.columns());
    let plain = |l: &Linear| l.bias.is_none() && l.permutation.is_none();
    linears.len() > 1 && linears.iter().all(|l| plain(l) && shape(l) == shape(linears[0]))
}

/// Bytes that layers take on a GPU when [`Uploader::stack`] moves them there.
pub fn bytes_of_stack(linears: &[&Linear]) -> usize {
    match linears {
        [first, ..] if stackable(linears) => {
            let weight = &first.weight;
            let rows = weight.rows().saturating_mul(linears.len());
            bytes_of_matrix(weight.element_type(), rows, weight.columns())
        }
        _ => linears.iter().map(|l| bytes_of_linear(l)).sum(),
    }
}

impl Uploader {
    /// These layers on the device, in one matrix if they are alike.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn stack(&mut self, linears: &[&Linear]) -> Result<Vec<Linear>> {
        match stackable(linears) {
            true => self.stack_alike(linears),
            false => linears.iter().map(|linear| self.linear(linear)).collect(),
        }
    }
}

impl ExpertStacks {
    /// The stacks that these experts (gate, up, down) form; `None` if they do not.
    pub fn of(experts: &[[&Linear; 3]]) -> Option<Self> {
        let [gate, up, down] = experts.first()?;
        #[cfg(feature = "cuda")]
        {
            let follows = |(index, expert): (usize, &[&Linear; 3])| {
                expert.iter().zip([gate, up, down]).all(|(own, first)| {
                    let plain = own.bias.is_none() && own.permutation.is_none();
                    let matrices = (own.weight.cuda(), first.weight.cuda());
                    let (Ok(own), Ok(first)) = matrices else { return false };
                    plain && own.follows(first, index)
                })
            };
            let pair = |gate: &crate::cuda::Matrix, up: &crate::cuda::Matrix| gate.pairs_with(up);
            let paired = gate.weight.cuda().is_ok_and(|gate| up.weight.cuda().is_ok_and(|up| pair(gate, up)));
            if paired && experts.iter().enumerate().all(follows) {
                let [gate, up, down] = [gate, up, down].map(|l| l.weight.clone());
                return Some(Self { gate, up, down });
            }
        }
        let _ = (gate, up, down);
        None
    }
}

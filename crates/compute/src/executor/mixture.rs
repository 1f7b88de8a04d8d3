//! A mixture of experts on a GPU: arguments, and experts that are stacked.
//!
//! A kernel finds the matrix of an expert that was chosen on the card only where all experts' matrices follow each other.
//! [`Uploader::stack`] puts them so if they are of one type and shape, and their biases likewise; each stays a layer that
//! can be used by itself.

use super::upload::{bytes_of_linear, bytes_of_matrix, bytes_of_vector};
use super::{Input, Linear, Norm, Routing, Uploader, ValuesMut, Vector, Weight};
use crate::Result;
use crate::ops::Activation;

/// Experts of one block whose matrices follow each other on a GPU.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code))]
pub struct ExpertStacks {
    /// The first expert's.
    pub(crate) gate: Option<Weight>,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
    /// Biases of the first expert's gate, up and down, which those of the others follow.
    pub(crate) biases: [Option<Vector>; 3],
}

/// The layers of one expert.
#[derive(Clone, Copy, Debug)]
pub struct ExpertLayers<'a> {
    /// None where what is inside is the activated `up`.
    pub gate: Option<&'a Linear>,
    /// To what is inside.
    pub up: &'a Linear,
    /// Back.
    pub down: &'a Linear,
}

impl<'a> ExpertLayers<'a> {
    /// In the order of the computation.
    #[cfg(feature = "cuda")]
    pub(crate) fn linears(self) -> impl Iterator<Item = &'a Linear> {
        self.gate.into_iter().chain([self.up, self.down])
    }
}

/// The network of one block.
#[derive(Clone, Copy, Debug)]
pub struct Mixture<'a> {
    /// Gives a number for each expert.
    pub router: &'a Linear,
    /// The layers of each expert.
    pub experts: &'a [ExpertLayers<'a>],
    /// The same, if they are stacked.
    pub stacks: Option<&'a ExpertStacks>,
    /// How they are chosen.
    pub routing: Routing,
    /// Added to the scores of experts for the choice alone.
    pub choice_bias: Option<&'a Vector>,
    /// Whether shares are factors of what experts read, not of what they make.
    pub scaled_inputs: bool,
    /// Of the gates' results, or of what is inside experts without gates.
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
    let shape = |l: &Linear| (l.weight.device_type(), l.weight.rows(), l.weight.columns());
    let bias = |l: &Linear| l.bias.as_ref().map(Vector::len);
    let alike = |l: &Linear| shape(l) == shape(linears[0]) && bias(l) == bias(linears[0]);
    linears.len() > 1 && linears.iter().all(|l| l.permutation.is_none() && alike(l))
}

/// Bytes that layers take on a GPU when [`Uploader::stack`] moves them there.
pub fn bytes_of_stack(linears: &[&Linear]) -> usize {
    match linears {
        [first, ..] if stackable(linears) => {
            let weight = &first.weight;
            let rows = weight.rows().saturating_mul(linears.len());
            let biases = first.bias.as_ref().map_or(0, |_| bytes_of_vector(rows));
            bytes_of_matrix(weight.device_type(), rows, weight.columns()) + biases
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
    /// The stacks that these experts form; `None` if they do not.
    pub fn of(experts: &[ExpertLayers<'_>]) -> Option<Self> {
        let first = experts.first()?;
        #[cfg(feature = "cuda")]
        {
            let alike = |(index, own): (usize, &ExpertLayers<'_>)| {
                let gates = match (own.gate, first.gate) {
                    (Some(own), Some(first)) => follows(own, first, index),
                    (own, first) => own.is_none() && first.is_none(),
                };
                gates && follows(own.up, first.up, index) && follows(own.down, first.down, index)
            };
            let usable = || {
                let (Ok(up), Ok(down)) = (first.up.weight.cuda(), first.down.weight.cuda()) else {
                    return false;
                };
                let gate = first.gate.map(|gate| gate.weight.cuda());
                let pairs = gate.is_none_or(|gate| gate.is_ok_and(|gate| gate.pairs_with(up)));
                pairs && up.most_vectors() > 0 && down.most_vectors() > 0
            };
            if usable() && experts.iter().enumerate().all(alike) {
                let ExpertLayers { gate, up, down } = *first;
                let gate_bias = gate.and_then(|gate| gate.bias.clone());
                return Some(Self {
                    gate: gate.map(|gate| gate.weight.clone()),
                    up: up.weight.clone(),
                    down: down.weight.clone(),
                    biases: [gate_bias, up.bias.clone(), down.bias.clone()],
                });
            }
        }
        let _ = first;
        None
    }
}

/// Whether a layer is number `index` of the layers of one shape that `first` begins, biases too.
#[cfg(feature = "cuda")]
fn follows(own: &Linear, first: &Linear, index: usize) -> bool {
    let biases = match (&own.bias, &first.bias) {
        (None, None) => true,
        (Some(own), Some(first)) => match (own.cuda(), first.cuda()) {
            (Ok(own), Ok(first)) => own.pointer() == first.pointer().at(index * first.bytes()),
            _ => false,
        },
        (None, Some(_)) | (Some(_), None) => false,
    };
    let (Ok(matrix), Ok(of_first)) = (own.weight.cuda(), first.weight.cuda()) else { return false };
    biases && own.permutation.is_none() && matrix.follows(of_first, index)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quern_tensor_io::ElementType;

    use super::*;
    use crate::executor::Permutation;

    fn linear(element_type: ElementType, rows: usize, columns: usize) -> Linear {
        let bytes = rows * element_type.row_bytes(columns).unwrap();
        let weight = Weight::host(element_type, rows, columns, Arc::new(vec![0u8; bytes]), 0..bytes).unwrap();
        Linear { weight, bias: None, permutation: None }
    }

    #[test]
    fn layers_that_are_alike_take_the_bytes_of_one_matrix() {
        let mut layers: Vec<Linear> = (0..5).map(|_| linear(ElementType::Q4_0, 3, 64)).collect();
        let bytes = |layers: &[Linear]| bytes_of_stack(&layers.iter().collect::<Vec<_>>());
        let apart = |layers: &[Linear]| layers.iter().map(bytes_of_linear).sum::<usize>();
        assert_eq!(bytes(&layers), bytes_of_matrix(ElementType::Q4_0, 15, 64));
        assert_eq!(bytes(&layers[..1]), apart(&layers[..1]));
        layers[3].permutation = Some(Permutation::Host((0..64).collect()));
        assert_eq!(bytes(&layers), apart(&layers));
        layers[3] = linear(ElementType::Q4_0, 3, 96);
        assert_eq!(bytes(&layers), apart(&layers));
        layers[3] = linear(ElementType::Q4_1, 3, 64);
        assert_eq!(bytes(&layers), apart(&layers));
        layers[3] = linear(ElementType::Q4_0, 3, 64);
        layers[3].bias = Some(vec![0.0; 3].into());
        assert_eq!(bytes(&layers), apart(&layers));
        layers.iter_mut().for_each(|layer| layer.bias = Some(vec![0.0; 3].into()));
        assert_eq!(bytes(&layers), bytes_of_matrix(ElementType::Q4_0, 15, 64) + bytes_of_vector(15));
        let layers = ExpertLayers { gate: Some(&layers[0]), up: &layers[0], down: &layers[0] };
        assert!(ExpertStacks::of(&[layers]).is_none(), "in RAM");
    }
}

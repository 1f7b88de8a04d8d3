//! What is reported of tensors.

use std::cmp::Ordering;

use quern_model::TensorRole;
use serde::{Serialize, Serializer};

use super::views::Naming;

/// The tensors of two checkpoints, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensors {
    /// Whose names and shapes are used.
    pub naming: Naming,
    /// Sums over all.
    pub totals: TensorTotals,
    /// The tensors of both, in the naming's order.
    pub tensors: Vec<TensorDiff>,
    /// Those of A alone.
    pub only_a: Vec<Lone>,
    /// Those of B alone.
    pub only_b: Vec<Lone>,
    /// What a user should know of the comparison, in words.
    pub notes: Vec<String>,
}

impl Tensors {
    /// Whether both hold the same numbers, or numbers within the tolerance.
    pub fn same(&self) -> bool {
        let lone = self.only_a.iter().chain(&self.only_b).all(|lone| lone.reason.is_some());
        lone && self.tensors.iter().all(|tensor| tensor.status.same())
    }

    /// The tensors that are not the same, the worst first: shapes that differ, values that are not finite on one side
    /// alone, then by relative RMSE.
    pub fn worst(&self) -> Vec<&TensorDiff> {
        let mut worst: Vec<&TensorDiff> = self.tensors.iter().filter(|t| !t.status.same()).collect();
        worst.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(Ordering::Equal));
        worst
    }
}

/// A tensor that both checkpoints have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDiff {
    /// Its name in the comparison's naming.
    pub name: String,
    /// What it is for, where the architecture is known.
    pub role: Option<TensorRole>,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Whether it is the same.
    pub status: Status,
    /// Values in A.
    pub values: u64,
    /// How A stores it.
    pub a: Stored,
    /// How B stores it.
    pub b: Stored,
    /// The side (`A` or `B`) that has no head of its own: its embedding is compared with the other's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tied: Option<&'static str>,
    /// How far both are apart; `None` where shapes differ, and for types that quern does not decode.
    #[serde(flatten)]
    pub errors: Option<Errors>,
}

impl TensorDiff {
    /// By what tensors are sorted, ascending.
    fn rank(&self) -> (u8, f64) {
        let Some(errors) = &self.errors else { return (2, f64::INFINITY) };
        let not_finite = errors.not_finite.as_ref().is_some_and(|n| n.different > 0);
        (u8::from(not_finite), errors.relative_rmse.unwrap_or(f64::INFINITY))
    }
}

/// What became of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The same bytes of the same type.
    SameBytes,
    /// The same values, in another type, layout or order.
    EqualValues,
    /// Values that differ by no more than the tolerance asked for.
    WithinTolerance,
    /// Other values.
    Different,
    /// Another shape.
    Shape,
}

impl Status {
    /// Whether it counts as the same.
    pub fn same(self) -> bool {
        match self {
            Self::SameBytes | Self::EqualValues | Self::WithinTolerance => true,
            Self::Different | Self::Shape => false,
        }
    }
}

/// How a checkpoint stores a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// Its names in the file: several for experts that are stored apart, none for what follows from the configuration.
    pub tensors: Vec<String>,
    /// An element type, or a scheme and its bits (`gptq 4-bit`); `computed` for what the file does not hold.
    #[serde(rename = "type")]
    pub kind: String,
    /// Dimensions in the comparison's naming, outermost first.
    pub shape: Vec<usize>,
    /// Bytes, scales and zero points included.
    pub bytes: u64,
    /// Bits a value.
    pub bits: f64,
}

/// How far the values of A and B are apart. Sums are over the values that are finite on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Errors {
    /// Values that are not equal.
    pub different: u64,
    /// Root mean square of the differences.
    pub rmse: f64,
    /// The RMSE over the root mean square of A; `None` where A is all zero and B is not.
    pub relative_rmse: Option<f64>,
    /// Cosine of the angle between both; `None` where one of them is all zero and the other is not.
    pub cosine: Option<f64>,
    /// The largest difference.
    pub max_error: f64,
    /// Where it is: an index for each dimension, outermost first; `None` without differences.
    pub max_error_at: Option<Vec<usize>>,
    /// A's value there.
    #[serde(serialize_with = "exactly")]
    pub max_error_a: Option<f32>,
    /// B's value there.
    #[serde(serialize_with = "exactly")]
    pub max_error_b: Option<f32>,
    /// NaN and infinite values; `None` where there are none.
    pub not_finite: Option<NotFinite>,
}

/// Writes a value with all the digits that its f32 has, not only those that tell it from its neighbours.
fn exactly<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(f64::from).serialize(serializer)
}

/// Values that are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotFinite {
    /// In A.
    pub a: u64,
    /// In B.
    pub b: u64,
    /// Places where one side has such a value and the other has not, or has another.
    pub different: u64,
    /// The first place.
    pub first: Vec<usize>,
}

/// A tensor that only one of the checkpoints has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lone {
    /// Its name in the comparison's naming.
    pub name: String,
    /// How it is stored.
    #[serde(flatten)]
    pub stored: Stored,
    /// Why it makes no difference, in words (`attention masks`); `None` if it may make one.
    pub reason: Option<&'static str>,
}

/// Sums over all tensors that both checkpoints have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TensorTotals {
    /// How many there are.
    pub tensors: usize,
    /// Those with the same bytes.
    pub same_bytes: usize,
    /// Those with equal values in another type or layout.
    pub equal_values: usize,
    /// Those within the tolerance.
    pub within_tolerance: usize,
    /// Those with other values.
    pub different: usize,
    /// Those of another shape.
    pub shape: usize,
    /// Tensors of A alone that may make a difference.
    pub only_a: usize,
    /// Tensors of B alone that may make a difference.
    pub only_b: usize,
    /// Values compared.
    pub values: u64,
    /// Values that are not equal.
    pub different_values: u64,
    /// NaN and infinite values in A.
    pub not_finite_a: u64,
    /// NaN and infinite values in B.
    pub not_finite_b: u64,
    /// RMSE over all values.
    pub rmse: f64,
    /// The RMSE over the root mean square of A, over all values.
    pub relative_rmse: Option<f64>,
    /// The cosine over all values, as if the tensors were one vector.
    pub cosine: Option<f64>,
    /// Bytes of these tensors in A.
    pub bytes_a: u64,
    /// Bytes of these tensors in B.
    pub bytes_b: u64,
    /// Bits a value in A.
    pub bits_a: f64,
    /// Bits a value in B.
    pub bits_b: f64,
}

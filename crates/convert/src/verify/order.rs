//! Where an act-order layer's columns were sorted by group on the way to blocks.
//!
//! GGUF has no place for an order of columns. A down projection's moves to the rows of the gate and up projections
//! that make its input; so these are compared in that order. It is found from the layer again, not taken from what
//! was written.

use quern_model::TensorRole as Role;
use quern_tensor_io::ElementType;

use super::Orders;
use crate::plan::ConvertPlan;

/// Row or column `j` of the output is number `j` of these of the source.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Rows(Vec<u32>),
    Columns(Vec<u32>),
}

/// All orders of a plan.
pub(super) fn orders(plan: &ConvertPlan<'_>) -> Orders {
    let mut orders = Orders::new();
    let Some(packing) = plan.view.packing() else { return orders };
    let tensors = plan.view.tensors();
    for down in tensors.iter().filter(|t| t.role == Some(Role::FfnDown) && t.packed) {
        // Decoded layers keep their columns.
        let layer = down.sources.first().and_then(|name| packing.layer(name));
        let Some(layer) = layer.filter(|_| down.element_type != ElementType::F32) else { continue };
        let form = layer.exact_form(plan.source()).ok();
        let Some(permutation) = form.and_then(|form| form.permutation) else { continue };
        let feeds = [Role::FfnGate, Role::FfnUp, Role::FfnGateBias, Role::FfnUpBias];
        let fed = |role: Option<Role>| role.is_some_and(|role| feeds.contains(&role));
        for before in tensors.iter().filter(|t| t.layer == down.layer && fed(t.role)) {
            // What is rows of a matrix is values of its bias.
            let order = if before.shape.len() == 1 { Order::Columns } else { Order::Rows };
            for name in &before.sources {
                orders.insert(name.clone(), order(permutation.clone()));
            }
        }
        orders.insert(layer.name.clone(), Order::Columns(permutation));
    }
    orders
}

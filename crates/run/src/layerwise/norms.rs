//! Norms of the residual stream whose weights a calibrator may refit before the layers behind them are calibrated.

use quern_compute::{Error as ComputeError, Norm, ValuesMut, Vector};
use quern_model::TensorRole;

use crate::{Error, Result};

use super::{Calibrator, Layerwise, NormGroup, NormInfo};

impl Layerwise<'_> {
    /// Shows the outputs of `norm` over the residual stream, and in the reference those of `original`; then lets
    /// `calibrator` replace its weight.
    pub(super) fn refit(
        &mut self,
        (role, layer): (TensorRole, Option<usize>),
        norm: &mut Norm,
        original: &Norm,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        if !calibrator.refits_norms() {
            return Ok(());
        }
        let Self { sequences, current, reference, steps, views, .. } = self;
        let info = NormInfo {
            role,
            layer,
            weight: norm.weight.host()?,
            bias: norm.bias.as_ref().map(Vector::host).transpose()?,
        };
        for tokens in &*sequences {
            let x = current.hidden_of(tokens);
            let values = &mut views.normed[..x.len()];
            steps.executor.norm(norm, x.into(), ValuesMut::Host(values))?;
            let mut seen = NormGroup { norm: info, values, reference: None };
            if let Some(reference) = reference {
                let normed = &mut views.reference[..x.len()];
                let x = reference.hidden_of(tokens).into();
                steps.executor.norm(original, x, ValuesMut::Host(normed))?;
                seen.reference = Some(normed);
            }
            calibrator.observe_norm(&seen).map_err(Error::Observer)?;
        }
        let replaced = calibrator.replace_norm(&info).map_err(Error::Observer)?;
        if let Some(weight) = replaced {
            let (expected, found) = (norm.weight.len(), weight.len());
            if expected != found {
                let what = "replacing a norm: numbers of its weight";
                return Err(ComputeError::Lengths { what, expected, found }.into());
            }
            norm.weight = weight.into();
        }
        Ok(())
    }
}

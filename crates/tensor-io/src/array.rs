//! Tensors as `ndarray` arrays of f32 (feature `ndarray`).
//!
//! ```text
//! name of a plain tensor    decoded by its element type, shape as in the checkpoint, outermost dimension first
//! name of a packed weight   decoded by its scheme (GPTQ, AWQ, FP8, NVFP4, bitsandbytes …), [rows, columns]
//! ```

use ndarray::{Array2, ArrayD, IxDyn};

use crate::scheme::{PackedLayer, Packing};
use crate::{Checkpoint, Error, Result, Tensor, TensorInfo, decode};

impl Checkpoint {
    /// The tensor of this name, decoded to f32.
    ///
    /// Shapes are those of [`TensorInfo::shape`]: `[rows, columns]` for the weight of a linear layer, in every
    /// container. In a checkpoint quantized with GPTQ, AWQ, compressed-tensors or bitsandbytes, the name that a
    /// packed weight had before quantization (`model.layers.0.mlp.up_proj.weight`) gives the decoded matrix.
    /// Finding it reads the small tensors of all packed layers; for many layers, call [`Packing::read`] once and
    /// [`PackedLayer::array`] for each.
    ///
    /// # Errors
    /// A name the checkpoint does not hold, an element type that is not decoded to f32 (integers, booleans), a
    /// checkpoint of headers only, or a packed layer that cannot be read. Each error names the file and the tensor.
    pub fn array(&self, name: &str) -> Result<ArrayD<f32>> {
        let plain = self.tensor(name);
        let file = plain.map_or(self.path(), |t| self.file_of(t.info));
        if !self.has_data() {
            let what = "only headers were read, so there are no values";
            return Err(Error::unsupported(file, what).with_tensor(name));
        }
        let decodable = plain.filter(|t| decode::can_decode(t.info.element_type));
        if decodable.is_none() || self.has_companions(name) {
            let packing = Packing::read(self)?;
            if let Some(layer) = packing.as_ref().and_then(|packing| packing.layer(name)) {
                return Ok(layer.array(self)?.into_dyn());
            }
        }
        if let Some(tensor) = decodable {
            return decoded(self, tensor);
        }
        Err(match plain {
            Some(tensor) => {
                let kind = tensor.info.element_type;
                let what = format!(
                    "values of type {kind} are not decoded to f32; Checkpoint::data gives their bytes"
                );
                Error::unsupported(file, what).with_tensor(name)
            }
            None => {
                let what = "there is no tensor of this name; Checkpoint::tensors lists the names";
                Error::refused(file, what).with_tensor(name)
            }
        })
    }

    /// Whether other tensors carry this name with an ending: the scales or the state of a packed weight, which may
    /// be stored in a tensor of any type.
    fn has_companions(&self, name: &str) -> bool {
        let ending =
            |t: &TensorInfo| t.name.strip_prefix(name).is_some_and(|end| end.starts_with(['.', '_']));
        self.tensors().iter().any(ending)
    }
}

/// The values of a plain tensor.
fn decoded(checkpoint: &Checkpoint, tensor: Tensor<'_>) -> Result<ArrayD<f32>> {
    let malformed = |what: String| {
        Err(Error::malformed(checkpoint.file_of(tensor.info), what).with_tensor(&tensor.info.name))
    };
    let mut values = zeros(checkpoint, tensor.info, tensor.info.elements())?;
    if !decode::to_f32(tensor.info.element_type, tensor.data, &mut values) {
        return malformed(format!("its {} bytes are not whole blocks of its type", tensor.data.len()));
    }
    ArrayD::from_shape_vec(IxDyn(&tensor.info.shape), values).or_else(|e| malformed(e.to_string()))
}

impl PackedLayer {
    /// The whole weight of this layer of `checkpoint`, decoded to f32: `[rows, columns]`, as
    /// [`PackedLayer::decode`] computes it.
    ///
    /// # Errors
    /// There is not enough memory for the values.
    pub fn array(&self, checkpoint: &Checkpoint) -> Result<Array2<f32>> {
        let info = &checkpoint.tensors()[self.parts[0]];
        let mut values = zeros(checkpoint, info, self.rows * self.columns)?;
        self.decode(checkpoint, 0..self.rows, &mut values);
        Array2::from_shape_vec((self.rows, self.columns), values)
            .map_err(|e| Error::malformed(checkpoint.file_of(info), e.to_string()).with_tensor(&self.name))
    }
}

/// Room for the values of a tensor.
fn zeros(checkpoint: &Checkpoint, info: &TensorInfo, elements: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(elements).map_err(|_| {
        let error = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        Error::new(checkpoint.file_of(info), error).with_tensor(&info.name)
    })?;
    values.resize(elements, 0.0);
    Ok(values)
}

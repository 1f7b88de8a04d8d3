//! Small checkpoints made by the letter of the formats, one bit at a time.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, safetensors};
use serde_json::Value;

/// A folder with tensors and configurations, to be opened.
#[derive(Clone, Default)]
pub struct Model {
    pub tensors: Vec<(String, ElementType, Vec<usize>, Vec<u8>)>,
    pub files: Vec<(String, Vec<u8>)>,
}

impl Model {
    pub fn tensor(mut self, name: &str, kind: ElementType, shape: &[usize], data: Vec<u8>) -> Self {
        self.tensors.push((name.into(), kind, shape.to_vec(), data));
        self
    }

    pub fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.files.push((name.into(), content.as_ref().to_vec()));
        self
    }

    pub fn json(self, name: &str, value: Value) -> Self {
        self.file(name, value.to_string())
    }

    /// The tensor of this name.
    pub fn get(&mut self, name: &str) -> &mut (String, ElementType, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|t| t.0 == name).expect(name)
    }

    pub fn remove(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|t| t.0 != name);
        assert_eq!(self.tensors.len() + 1, before, "{name}");
    }

    pub fn write(&self, folder: &Path) {
        let plan: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, kind, shape, _)| TensorPlan {
                name: name.clone(),
                element_type: *kind,
                shape: shape.clone(),
            })
            .collect();
        let file = folder.join("model.safetensors");
        let mut writer = safetensors::Writer::create(&file, &Metadata::new(), &plan, true).unwrap();
        self.tensors.iter().for_each(|t| writer.write(&t.3).unwrap());
        writer.finish().unwrap();
        self.files.iter().for_each(|(name, content)| fs::write(folder.join(name), content).unwrap());
    }

    /// Writes, opens and reads it.
    pub fn read(&self) -> Result<Opened, String> {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        self.write(folder.path());
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let error = |e: quern_tensor_io::Error| {
            let text = e.to_string();
            assert!(text.starts_with(folder.path().to_str().unwrap()), "names no file: {text}");
            text
        };
        let packing = Packing::read(&checkpoint).map_err(error)?.expect("it is quantized");
        Ok(Opened { checkpoint, packing, _folder: folder })
    }

    /// Reads it, which must fail with a message that holds every one of `parts`.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) {
        match self.read() {
            Ok(_) => panic!("accepted; expected: {parts:?}"),
            Err(text) => parts.iter().for_each(|p| assert!(text.contains(p), "{p:?} is not in: {text}")),
        }
    }
}

/// A model that could be read.
pub struct Opened {
    pub checkpoint: Checkpoint,
    pub packing: Packing,
    _folder: tempfile::TempDir,
}

impl Opened {
    /// The only layer, decoded.
    pub fn decoded(&self) -> Vec<f32> {
        let [layer] = self.packing.layers() else { panic!("{} layers", self.packing.layers().len()) };
        let mut out = vec![f32::NAN; layer.rows * layer.columns];
        layer.decode(&self.checkpoint, 0..layer.rows, &mut out);
        out
    }
}

/// A bit stream over 32-bit words, one bit after the other.
pub fn stream(codes: &[u32], bits: usize) -> Vec<u32> {
    let mut words = vec![0u32; (codes.len() * bits).div_ceil(32)];
    for (k, code) in codes.iter().enumerate() {
        for b in 0..bits {
            let at = k * bits + b;
            words[at / 32] |= (code >> b & 1) << (at % 32);
        }
    }
    words
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

pub fn numbers(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|w| w.to_le_bytes()).collect()
}

pub fn floats(values: &[f32], kind: ElementType) -> Vec<u8> {
    let bytes = |v: &f32| match kind {
        ElementType::F16 => f16::from_f32(*v).to_le_bytes().to_vec(),
        ElementType::BF16 => bf16::from_f32(*v).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

/// The numbers of a GPTQ or AWQ layer.
#[derive(Clone, Debug)]
pub struct Affine {
    pub bits: usize,
    pub rows: usize,
    pub columns: usize,
    /// `[rows][columns]`
    pub codes: Vec<u32>,
    /// `[groups][rows]`
    pub zeros: Vec<u32>,
    /// `[groups][rows]`
    pub scales: Vec<f32>,
    /// `[columns]`
    pub groups: Vec<i32>,
}

impl Affine {
    pub fn group_count(&self) -> usize {
        self.scales.len() / self.rows
    }

    /// Numbers drawn from `seed`, zero points all `zero` or of all sizes; scales are of 8 bits, so that every
    /// float type holds them.
    pub fn random(bits: usize, [rows, columns, size]: [usize; 3], zero: Option<u32>, seed: u64) -> Self {
        let mut state = seed;
        let mut next = |below: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % below
        };
        let count = columns.div_ceil(size);
        Self {
            bits,
            rows,
            columns,
            codes: (0..rows * columns).map(|_| next(1 << bits)).collect(),
            zeros: (0..count * rows).map(|_| zero.unwrap_or_else(|| next(1 << bits))).collect(),
            scales: (0..count * rows).map(|_| (next(128) + 128) as f32 / 8192.0).collect(),
            groups: (0..columns).map(|k| (k / size) as i32).collect(),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        let value = |i: usize| {
            let (o, k) = (i / self.columns, i % self.columns);
            let at = self.groups[k] as usize * self.rows + o;
            self.scales[at] * (self.codes[i] as f32 - self.zeros[at] as f32)
        };
        (0..self.codes.len()).map(value).collect()
    }

    /// As GPTQ keeps it, as the layer `l`.
    pub fn gptq(&self, v2: bool, scales: ElementType, g_idx: bool) -> Model {
        let Self { bits, rows, columns, .. } = *self;
        let down: Vec<_> = (0..rows).map(|o| stream(&self.codes[o * columns..][..columns], bits)).collect();
        let height = down[0].len();
        let qweight: Vec<_> = (0..height * rows).map(|i| down[i % rows][i / rows]).collect();
        let less = if v2 { 0 } else { (1 << bits) - 1 };
        let stored: Vec<_> = self.zeros.iter().map(|z| (z + less) % (1 << bits)).collect();
        let qzeros: Vec<_> = stored.chunks(rows).flat_map(|z| stream(z, bits)).collect();
        let count = self.group_count();
        let model = Model::default()
            .tensor("l.qweight", ElementType::I32, &[height, rows], words(&qweight))
            .tensor("l.qzeros", ElementType::I32, &[count, qzeros.len() / count], words(&qzeros))
            .tensor("l.scales", scales, &[count, rows], floats(&self.scales, scales));
        match g_idx {
            true => model.tensor("l.g_idx", ElementType::I32, &[columns], numbers(&self.groups)),
            false => model,
        }
    }

    /// As AWQ keeps it, as the layer `l`.
    pub fn awq(&self, scales: ElementType) -> Model {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let pack = |row: Vec<u32>| -> Vec<u32> {
            row.chunks(8).map(|c| (0..8).fold(0, |w, i| w | c[ORDER[i]] << (4 * i))).collect()
        };
        let column = |k: usize| (0..self.rows).map(|o| self.codes[o * self.columns + k]).collect();
        let qweight: Vec<_> = (0..self.columns).flat_map(|k| pack(column(k))).collect();
        let qzeros: Vec<_> = self.zeros.chunks(self.rows).flat_map(|z| pack(z.to_vec())).collect();
        let count = self.group_count();
        Model::default()
            .tensor("l.qweight", ElementType::I32, &[self.columns, self.rows / 8], words(&qweight))
            .tensor("l.qzeros", ElementType::I32, &[count, self.rows / 8], words(&qzeros))
            .tensor("l.scales", scales, &[count, self.rows], floats(&self.scales, scales))
    }

    /// As compressed-tensors keeps it, as the layer `l`: a dense stream, or whole codes in each word.
    pub fn compressed(&self, scales: ElementType, padded: bool, zeros: bool, g_idx: Option<&[i32]>) -> Model {
        let bits = self.bits;
        let pack = |codes: &[u32]| match padded {
            false => stream(codes, bits),
            true => {
                codes.chunks(32 / bits).map(|c| (0..c.len()).fold(0, |w, i| w | c[i] << (i * bits))).collect()
            }
        };
        let packed: Vec<_> = self.codes.chunks(self.columns).flat_map(pack).collect();
        let (rows, count) = (self.rows, self.group_count());
        let by_row = |i: usize| i % count * rows + i / count;
        let turned: Vec<_> = (0..rows * count).map(|i| self.scales[by_row(i)]).collect();
        let shape = [rows as i64, self.columns as i64].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut model = Model::default()
            .tensor("l.weight_packed", ElementType::I32, &[rows, packed.len() / rows], words(&packed))
            .tensor("l.weight_scale", scales, &[rows, count], floats(&turned, scales))
            .tensor("l.weight_shape", ElementType::I64, &[2], shape);
        if zeros {
            let down: Vec<_> = self.zeros.chunks(rows).map(pack).collect();
            let height = down[0].len();
            let across: Vec<_> = (0..height * count).map(|i| down[i % count][i / count]).collect();
            model = model.tensor("l.weight_zero_point", ElementType::I32, &[height, count], words(&across));
        }
        match g_idx {
            Some(groups) => {
                model.tensor("l.weight_g_idx", ElementType::I32, &[groups.len()], numbers(groups))
            }
            None => model,
        }
    }

    /// A configuration for that.
    pub fn compressed_config(&self, size: i64, symmetric: bool) -> Value {
        let weights = serde_json::json!({
            "num_bits": self.bits, "type": "int", "symmetric": symmetric, "group_size": size,
            "strategy": if size == -1 { "channel" } else { "group" },
        });
        serde_json::json!({ "quantization_config": {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
        }})
    }

    /// A configuration that fits.
    pub fn config(&self, v2: bool, size: i64) -> Value {
        serde_json::json!({
            "quant_method": "gptq", "bits": self.bits, "group_size": size, "desc_act": false, "sym": false,
            "checkpoint_format": if v2 { "gptq_v2" } else { "gptq" },
        })
    }
}

/// The numbers of an NF4 or FP4 layer.
#[derive(Clone, Debug)]
pub struct FourBit {
    pub kind: &'static str,
    pub shape: [usize; 2],
    pub block_size: usize,
    /// One a value, in order.
    pub codes: Vec<u8>,
    /// One a block: plain, or the code of a quantized one.
    pub absmax: Vec<f32>,
    pub nested: bool,
}

/// What stands before the values in a double quantized scale.
pub const OFFSET: f32 = 0.04412;

impl FourBit {
    pub fn random(kind: &'static str, shape: [usize; 2], block_size: usize, nested: bool, seed: u64) -> Self {
        let mut state = seed;
        let mut next = |below: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % below
        };
        let count = shape[0] * shape[1];
        let codes = (0..count).map(|_| next(16) as u8).collect();
        let scale = |_| if nested { next(256) as f32 } else { next(1000) as f32 / 256.0 };
        let absmax = (0..count.div_ceil(block_size)).map(scale).collect();
        Self { kind, shape, block_size, codes, absmax, nested }
    }

    /// A map and outer scales for nested ones: exact numbers.
    fn map() -> Vec<f32> {
        (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect()
    }

    fn outer(&self) -> Vec<f32> {
        (0..self.absmax.len().div_ceil(256)).map(|i| 0.01 + i as f32 / 16.0).collect()
    }

    pub fn scale(&self, block: usize) -> f32 {
        match self.nested {
            false => self.absmax[block],
            true => Self::map()[self.absmax[block] as usize] * self.outer()[block / 256] + OFFSET,
        }
    }

    pub fn table(&self) -> [f32; 16] {
        use quern_tensor_io::decode::four_bit::{FP4, NF4};
        if self.kind == "nf4" { NF4 } else { FP4 }
    }

    pub fn values(&self) -> Vec<f32> {
        let value = |(i, q): (usize, &u8)| self.table()[usize::from(*q)] * self.scale(i / self.block_size);
        self.codes.iter().enumerate().map(value).collect()
    }

    pub fn state(&self) -> Value {
        let mut state = serde_json::json!({
            "quant_type": self.kind, "blocksize": self.block_size, "dtype": "bfloat16", "shape": self.shape,
        });
        if self.nested {
            state["nested_blocksize"] = 256.into();
            state["nested_dtype"] = "float32".into();
            state["nested_offset"] = f64::from(OFFSET).into();
        }
        state
    }

    /// As bitsandbytes keeps it, as the weight `l.weight`, or under GPT-QModel's names.
    pub fn model(&self, bitsandbytes: bool) -> Model {
        let mut bytes: Vec<u8> =
            self.codes.chunks(2).map(|c| c[0] << 4 | c.get(1).copied().unwrap_or(0)).collect();
        bytes.shrink_to_fit();
        let (join, state) = match bitsandbytes {
            true => (".", format!("l.weight.quant_state.bitsandbytes__{}", self.kind)),
            false => ("_", "l.weight_quant_state".to_owned()),
        };
        let name = |part: &str| format!("l.weight{join}{part}");
        let json = self.state().to_string().into_bytes();
        let blocks = self.absmax.len();
        let model = Model::default()
            .tensor("l.weight", ElementType::U8, &[bytes.len(), 1], bytes)
            .tensor(&name("quant_map"), ElementType::F32, &[16], floats(&self.table(), ElementType::F32))
            .tensor(&state, ElementType::U8, &[json.len()], json);
        if !self.nested {
            let data = floats(&self.absmax, ElementType::F32);
            return model.tensor(&name("absmax"), ElementType::F32, &[blocks], data);
        }
        let codes = self.absmax.iter().map(|&c| c as u8).collect();
        let outer = self.outer();
        let data = floats(&outer, ElementType::F32);
        let map = floats(&Self::map(), ElementType::F32);
        model
            .tensor(&name("absmax"), ElementType::U8, &[blocks], codes)
            .tensor(&name("nested_absmax"), ElementType::F32, &[outer.len()], data)
            .tensor(&name("nested_quant_map"), ElementType::F32, &[256], map)
    }
}

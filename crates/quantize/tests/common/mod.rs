//! What the integration tests share.
#![allow(dead_code)] // each test binary uses its own part

use std::path::{Path, PathBuf};

use quern_compute::simd::Level;
use quern_model::{Packed, View};
use quern_quantize::imatrix::Imatrix;
use quern_quantize::job::{self, Options, QuantizeReport};
use quern_quantize::recipe::{FileType, ModelFacts, TensorFacts};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, safetensors};

/// A file or folder under `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The JSON file of this name under `fixtures/golden/`.
pub fn golden(name: &str) -> serde_json::Value {
    let path = fixture("golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A dense or expert model of llama's tensor names, in f16.
#[derive(Clone, Debug)]
pub struct Shape {
    pub facts: ModelFacts,
    pub embedding: usize,
    pub feed_forward: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub tied: bool,
}

impl Shape {
    /// All its tensors, in no particular order.
    pub fn tensors(&self) -> Vec<TensorFacts> {
        let (e, f) = (self.embedding, self.feed_forward);
        let (q, kv) = (self.facts.heads * self.head_dim, self.facts.kv_heads * self.head_dim);
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            let element_type = if shape.len() > 1 { ElementType::F16 } else { ElementType::F32 };
            tensors.push(TensorFacts { name, shape: shape.to_vec(), element_type });
        };
        for layer in (0..self.facts.layers).rev() {
            let mut block = |part: &str, shape: &[usize]| add(format!("blk.{layer}.{part}.weight"), shape);
            block("attn_norm", &[e]);
            block("ffn_norm", &[e]);
            block("attn_q", &[q, e]);
            block("attn_k", &[kv, e]);
            block("attn_v", &[kv, e]);
            block("attn_output", &[e, q]);
            if self.facts.experts > 0 {
                let n = self.facts.experts;
                block("ffn_gate_inp", &[n, e]);
                block("ffn_gate_exps", &[n, f, e]);
                block("ffn_up_exps", &[n, f, e]);
                block("ffn_down_exps", &[n, e, f]);
            } else {
                block("ffn_gate", &[f, e]);
                block("ffn_up", &[f, e]);
                block("ffn_down", &[e, f]);
            }
        }
        add("token_embd.weight".into(), &[self.vocabulary, e]);
        add("output_norm.weight".into(), &[e]);
        if !self.tied {
            add("output.weight".into(), &[self.vocabulary, e]);
        }
        tensors
    }
}

/// The shape of a dense model.
pub fn dense(architecture: &str, layers: usize, heads: usize, kv_heads: usize) -> Shape {
    let facts = ModelFacts { architecture: architecture.into(), layers, heads, kv_heads, experts: 0 };
    Shape { facts, embedding: 1024, feed_forward: 2816, head_dim: 64, vocabulary: 512, tied: false }
}

/// The shape of the model in `fixtures/`.
pub fn bookworm() -> Shape {
    let facts = ModelFacts { architecture: "llama".into(), layers: 4, heads: 4, kv_heads: 2, experts: 0 };
    Shape { facts, embedding: 256, feed_forward: 768, head_dim: 64, vocabulary: 4096, tied: true }
}

/// The types and hashes llama-quantize gave the demo model, `TYPE/none` and `TYPE/imatrix`, as
/// `{tensor: [type, sha256]}`.
pub fn reference() -> serde_json::Map<String, serde_json::Value> {
    golden("bookworm-4m.llama-quantize.json").as_object().expect("an object").clone()
}

/// The demo model.
pub fn demo() -> Checkpoint {
    Checkpoint::open(&fixture("bookworm-4m")).expect("the demo model")
}

/// The importance matrix llama-imatrix made of the demo model.
pub fn imatrix() -> Imatrix {
    Imatrix::open(&fixture("golden/bookworm-4m.imatrix.gguf")).expect("the importance matrix")
}

/// `file_type` on two threads.
pub fn options(file_type: FileType) -> Options {
    Options { threads: 2, ..Options::new(file_type) }
}

/// Plans and runs a job.
pub fn quantize(source: &Checkpoint, options: Options, output: &Path) -> Result<QuantizeReport, job::Error> {
    let view = View::gguf(source, Packed::Refused)?;
    job::run(&job::plan(&view, options)?, output, &NoProgress)
}

/// A copy of the demo model whose tensors `change` may alter, in the type it returns.
pub fn altered(folder: &Path, mut change: impl FnMut(&str, &mut Vec<f32>) -> ElementType) -> Checkpoint {
    let source = demo();
    for entry in std::fs::read_dir(fixture("bookworm-4m")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut data = Vec::new();
    let mut plans = Vec::new();
    for info in source.tensors() {
        let mut values = vec![0.0; info.elements()];
        assert!(quern_tensor_io::decode::to_f32(info.element_type, source.data(info), &mut values));
        let element_type = change(&info.name, &mut values);
        let mut bytes = vec![0; element_type.row_bytes(values.len()).unwrap()];
        quern_quantize::encode::encode_rows_at(
            Level::best(),
            element_type,
            values.len(),
            &values,
            None,
            &mut bytes,
        )
        .unwrap();
        data.push(bytes);
        plans.push(TensorPlan { name: info.name.clone(), element_type, shape: info.shape.clone() });
    }
    let path = folder.join("model.safetensors");
    let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &plans, true).unwrap();
    data.iter().for_each(|bytes| writer.write(bytes).unwrap());
    writer.finish().unwrap();
    Checkpoint::open(folder).expect("the altered model")
}

/// SHA-256 as lower-case hexadecimal digits.
pub fn sha256(data: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// Names in a folder: to see that nothing half written stays.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

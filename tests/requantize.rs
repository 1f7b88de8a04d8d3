//! `quern quantize` from models that are no plain Hugging Face checkpoints.

use std::path::Path;

use quern_tensor_io::Checkpoint;

use crate::common::{failure, fixture, listing, quern, stdout};
use crate::inspect::packed;

fn args<'a>(model: &'a str, to: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<String> {
    let mut all = vec!["quantize", model, "--to", to, "-o", out.to_str().expect("path")];
    all.extend(more);
    all.into_iter().map(str::to_owned).collect()
}

fn scheme_of(path: &Path) -> String {
    let output = quern(["inspect", path.to_str().expect("path"), "--json"]);
    let value: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    value["scheme"].as_str().expect("scheme").to_owned()
}

#[test]
fn a_quantized_model_is_quantized_again_only_if_asked() {
    let scratch = tempfile::tempdir().expect("folder");
    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let packed = fixture("packed/gptq-4bit-g128");
    for model in [&gguf, &packed] {
        for to in ["nf4", "gptq", "q6_k"] {
            let out = scratch.path().join("refused");
            let text = failure(&quern(args(model.to_str().expect("path"), to, &out, &[])));
            assert!(text.contains("--allow-requantize"), "{to}: {text}");
            assert!(listing(scratch.path()).is_empty());
        }
    }
}

#[test]
fn every_scheme_is_made_of_gguf_and_of_packed_layers() {
    let scratch = tempfile::tempdir().expect("folder");
    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let whole = [packed("awq-4bit-g64", |_| true), packed("bnb-nf4", |_| true)];
    let sources = [gguf, whole[0].path().to_owned(), whole[1].path().to_owned()];
    for (number, model) in sources.iter().enumerate() {
        let model = model.to_str().expect("path");
        let few = ["--samples", "4", "--context", "64"];
        for (to, more) in [("fp4", &[][..]), ("int8", &[]), ("q5_k_m", &[]), ("gptq", &few)] {
            let out = scratch.path().join(format!("{number}-{to}"));
            let mut more = more.to_vec();
            more.push("--allow-requantize");
            let output = quern(args(model, to, &out, &more));
            stdout(&output);
            let scheme = scheme_of(&out);
            assert!(scheme.eq_ignore_ascii_case(to), "{model} to {to}: {scheme}");
        }
    }
    // Intermediate files are removed.
    assert_eq!(listing(scratch.path()).len(), 12, "{:?}", listing(scratch.path()));
}

#[test]
fn plain_numbers_in_gguf_need_no_permission() {
    let scratch = tempfile::tempdir().expect("folder");
    let (f16, nf4) = (scratch.path().join("f16.gguf"), scratch.path().join("nf4"));
    let source = fixture("bookworm-4m");
    stdout(&quern(args(source.to_str().expect("path"), "f16", &f16, &[])));
    stdout(&quern(args(f16.to_str().expect("path"), "nf4", &nf4, &[])));
    let direct = scratch.path().join("direct");
    stdout(&quern(args(source.to_str().expect("path"), "nf4", &direct, &[])));
    assert_eq!(listing(scratch.path()), ["direct", "f16.gguf", "nf4"]);
    // Converting to GGUF first loses nothing: the same tensors, in another order.
    let (over, direct) = (Checkpoint::open(&nf4).expect("opens"), Checkpoint::open(&direct).expect("opens"));
    assert_eq!(over.tensors().len(), direct.tensors().len());
    for info in direct.tensors() {
        let other = over.tensor(&info.name).expect(&info.name);
        assert_eq!(
            (other.info.element_type, &other.info.shape),
            (info.element_type, &info.shape),
            "{}",
            info.name
        );
        assert!(other.data == direct.data(info), "{}", info.name);
    }
}

//! Bad input and bad wishes: one clear error, and nothing under the output's name or beside it.

use std::path::Path;

use crate::common::{altered, demo, imatrix, names, options, quantize};
use quern_model::{Packed, View};
use quern_quantize::imatrix::Imatrix;
use quern_quantize::job::{self, Error, Options, Warning};
use quern_quantize::recipe::FileType;
use quern_tensor_io::{Checkpoint, ElementType as E};

/// Runs a job that must fail and leave nothing.
fn fails(source: &Checkpoint, options: Options) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let error = quantize(source, options, &folder.path().join("out.gguf")).unwrap_err();
    assert!(names(folder.path()).is_empty(), "{:?} left behind", names(folder.path()));
    error
}

#[test]
fn values_that_are_not_finite_are_found_before_anything_is_visible() {
    for (file_type, value) in [
        (FileType::Q4KM, f32::NAN),
        (FileType::Q8_0, f32::INFINITY),
        (FileType::F32, f32::NEG_INFINITY),
        (FileType::F16, f32::NAN),
        (FileType::Copy, f32::INFINITY),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = altered(folder.path(), |name, values| {
            if name == "model.layers.2.mlp.down_proj.weight" {
                values[768 * 17 + 700] = value;
            }
            E::F16
        });
        match fails(&source, options(file_type)) {
            Error::NotFinite { tensor, row: 17, column: 700, value: found } => {
                assert_eq!(tensor, "blk.2.ffn_down.weight");
                assert_eq!(found.is_nan(), value.is_nan(), "{file_type}");
                assert!(value.is_nan() || found == value, "{file_type}");
            }
            error => panic!("{file_type}: {error}"),
        }
    }
    // tensors that are not quantized are looked at too
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |name, values| {
        if name == "model.norm.weight" {
            values[5] = f32::NAN;
        }
        E::F32
    });
    let error = fails(&source, options(FileType::Q4_0));
    assert!(
        matches!(&error, Error::NotFinite { tensor, row: 0, column: 5, .. } if tensor == "output_norm.weight")
    );
}

#[test]
fn values_too_large_for_the_type_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |name, values| {
        if name == "model.layers.1.mlp.up_proj.weight" {
            values[256 * 3 + 40] = 1e10;
        }
        E::BF16
    });
    for (file_type, first_column) in [
        (FileType::F16, 40),
        (FileType::Q8_0, 32),
        (FileType::Q4_0, 32),
        (FileType::Q4KS, 0),
        (FileType::Q6K, 0),
    ] {
        match fails(&source, options(file_type)) {
            Error::Overflow { tensor, row: 3, column, element_type } => {
                assert_eq!(tensor, "blk.1.ffn_up.weight");
                assert_eq!(Some(element_type), file_type.default_type());
                assert_eq!(column, first_column, "{file_type}");
            }
            error => panic!("{file_type}: {error}"),
        }
    }
    // bf16 holds it
    let output = folder.path().join("bf16.gguf");
    quantize(&source, options(FileType::BF16), &output).unwrap();
}

#[test]
fn the_first_bad_value_is_reported_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |_, values| {
        let last = values.len() - 1;
        values[last] = f32::NAN;
        E::F32
    });
    for threads in [1, 2, 5] {
        let error = fails(&source, Options { threads, ..options(FileType::Q4_0) });
        let first = matches!(&error, Error::NotFinite { tensor, .. } if tensor == "output_norm.weight");
        assert!(first, "{threads} threads: {error}");
    }
}

#[test]
fn the_input_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    quantize(&demo(), options(FileType::F16), &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let source = Checkpoint::open(&path).unwrap();
    let force = Options { force: true, ..options(FileType::Q4_0) };
    let dotted = folder.path().join(".").join("model.gguf");
    let mut outputs = vec![path.clone(), dotted];
    #[cfg(unix)]
    {
        let (soft, hard) = (folder.path().join("soft.gguf"), folder.path().join("hard.gguf"));
        std::os::unix::fs::symlink(&path, &soft).unwrap();
        std::fs::hard_link(&path, &hard).unwrap();
        outputs.extend([soft, hard]);
    }
    let there = names(folder.path());
    for output in outputs {
        let error = quantize(&source, force.clone(), &output).unwrap_err();
        assert!(error.to_string().contains("being read"), "{}: {error}", output.display());
    }
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(names(folder.path()), there);
}

#[test]
fn an_existing_output_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    std::fs::write(&output, "precious").unwrap();
    let error = quantize(&demo(), options(FileType::Q8_0), &output).unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "precious");
    assert_eq!(names(folder.path()), ["out.gguf"]);
    quantize(&demo(), Options { force: true, ..options(FileType::Q8_0) }, &output).unwrap();
    Checkpoint::open(&output).unwrap();
    assert_eq!(names(folder.path()), ["out.gguf"]);
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = quantize(&demo(), options(FileType::Q8_0), Path::new("/nonexistent/out.gguf")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

/// A legacy importance matrix with these entries, all ones.
fn ones(folder: &Path, entries: &[(&str, usize)]) -> Imatrix {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(1_i32.to_le_bytes());
        bytes.extend((*values as i32).to_le_bytes());
        bytes.extend(std::iter::repeat_n(1.0_f32.to_le_bytes(), *values).flatten());
    }
    let path = folder.join("ones.dat");
    std::fs::write(&path, bytes).unwrap();
    Imatrix::open(&path).unwrap()
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = demo();
    let wishes = |entries: &[(&str, usize)]| {
        let imatrix = Some(ones(folder.path(), entries));
        Options { imatrix, ..options(FileType::Q4KM) }
    };
    let error = fails(&source, wishes(&[("blk.1.ffn_down.weight", 256)]));
    match &error {
        Error::ImatrixShape { tensor, found: 256, expected: 768, .. } => {
            assert_eq!(tensor, "blk.1.ffn_down.weight")
        }
        _ => panic!("{error}"),
    }
    assert!(error.to_string().contains("ones.dat"), "{error}");

    // token embeddings are forgiven, tensors without entry and entries without tensor are named
    let view = View::gguf(&source, Packed::Refused).unwrap();
    let plan = job::plan(&view, wishes(&[("token_embd.weight", 1), ("blk.9.attn_q.weight", 8)])).unwrap();
    let [embedding, missing, unused] = plan.warnings() else { panic!("{:?}", plan.warnings()) };
    assert!(matches!(embedding, Warning::EmbeddingImportance { found: 1, expected: 256, .. }));
    assert!(matches!(missing, Warning::NoImportance { tensors, .. } if tensors.len() == 28));
    assert!(
        matches!(unused, Warning::UnusedImportance { entries, .. } if entries == &["blk.9.attn_q.weight"])
    );
    assert!(missing.to_string().contains("and 25 more"), "{missing}");
    assert!(plan.rows().iter().all(|r| !r.weighted));

    // Q2_K_S cannot do without the entry of any one tensor
    let some: Vec<(&str, usize)> = plan
        .rows()
        .iter()
        .filter(|r| r.shape.len() == 2 && r.name != "blk.3.attn_v.weight" && r.name != "token_embd.weight")
        .map(|r| (r.name.as_str(), r.shape[1]))
        .collect();
    let error = fails(&source, Options { file_type: FileType::Q2KS, ..wishes(&some) });
    assert!(
        matches!(&error, Error::NeedsImatrix { tensor, .. } if tensor == "blk.3.attn_v.weight"),
        "{error}"
    );
}

#[test]
fn an_importance_matrix_is_of_no_matter_to_plain_types() {
    let folder = tempfile::tempdir().unwrap();
    let output = |name: &str| folder.path().join(name);
    quantize(&demo(), options(FileType::F16), &output("a")).unwrap();
    quantize(&demo(), Options { imatrix: Some(imatrix()), ..options(FileType::F16) }, &output("b")).unwrap();
    let (a, b) = (Checkpoint::open(&output("a")).unwrap(), Checkpoint::open(&output("b")).unwrap());
    for info in a.tensors() {
        assert!(a.data(info) == b.tensor(&info.name).unwrap().data, "{}", info.name);
    }
}

#[test]
fn types_with_codebooks_need_an_entry_for_every_layer() {
    let folder = tempfile::tempdir().unwrap();
    let source = demo();
    let missing = |error: Error| match error {
        Error::NeedsImatrix { tensor, .. } => tensor,
        error => panic!("{error}"),
    };
    for file_type in [FileType::IQ1S, FileType::IQ1M, FileType::IQ2XXS, FileType::IQ2XS, FileType::IQ3XXS] {
        assert_eq!(missing(fails(&source, options(file_type))), "blk.0.attn_k.weight", "{file_type}");
    }
    // the matrix has no entry for the embeddings, which a mix gives another type
    let whole = Options { imatrix: Some(imatrix()), ..options(FileType::IQ2XS) };
    quantize(&source, whole.clone(), &folder.path().join("iq2_xs.gguf")).unwrap();
    assert_eq!(missing(fails(&source, Options { pure: true, ..whole.clone() })), "token_embd.weight");
    let embedding =
        |t| Options { token_embedding_type: Some(t), output_tensor_type: Some(t), ..whole.clone() };
    assert_eq!(missing(fails(&source, embedding(E::IQ1S))), "token_embd.weight");
    // garbage, but it can be done: the user asked for it
    quantize(&source, embedding(E::IQ3XXS), &folder.path().join("iq3.gguf")).unwrap();
    // iq3_s does without
    quantize(&source, options(FileType::IQ3S), &folder.path().join("iq3_s.gguf")).unwrap();
}

#[test]
fn types_with_codebooks_find_values_that_are_too_large() {
    for value in [1e10, 1e30] {
        let folder = tempfile::tempdir().unwrap();
        let source = altered(folder.path(), |name, values| {
            if name == "model.layers.1.mlp.up_proj.weight" {
                values[256 * 3 + 40] = value;
            }
            E::F32
        });
        for file_type in [FileType::IQ1S, FileType::IQ1M, FileType::IQ2XXS, FileType::IQ2XS, FileType::IQ3S] {
            match fails(&source, Options { imatrix: Some(imatrix()), ..options(file_type) }) {
                Error::Overflow { tensor, row: 3, column: 0, .. } => {
                    assert_eq!(tensor, "blk.1.ffn_up.weight")
                }
                error => panic!("{file_type}: {error}"),
            }
        }
    }
}

#[test]
fn a_model_of_zeros_becomes_a_model_of_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |_, values| {
        values.fill(0.0);
        E::F16
    });
    for file_type in [FileType::IQ1S, FileType::IQ2XXS, FileType::IQ2M, FileType::IQ3XXS, FileType::Q1_0] {
        let output = folder.path().join(format!("{file_type}.gguf"));
        quantize(&source, Options { imatrix: Some(imatrix()), ..options(file_type) }, &output).unwrap();
        let result = Checkpoint::open(&output).unwrap();
        for info in result.tensors() {
            let mut values = vec![1.0; info.elements()];
            assert!(quern_tensor_io::decode::to_f32(info.element_type, result.data(info), &mut values));
            assert!(values.iter().all(|v| *v == 0.0), "{file_type} {}", info.name);
        }
    }
}

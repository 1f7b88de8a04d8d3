//! The report page: well-formed, escaped, without requests, the same for every number of threads.

use std::path::{Path, PathBuf};

use quern_inspect::report::{Report, Subject, page};
use quern_inspect::statistics::statistics;
use quern_inspect::{diff, summarize};
use quern_tensor_io::pipeline::pool;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, gguf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn made(model: &Path, against: Option<&Path>, threads: usize) -> String {
    let a = Checkpoint::open(model).unwrap();
    let label = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let measured = |checkpoint: &Checkpoint| {
        let pool = pool(threads, checkpoint.path()).unwrap();
        pool.install(|| statistics(checkpoint, &NoProgress)).unwrap()
    };
    let (summary, figures, name) = (summarize(&a), measured(&a), label(model));
    let model = Subject { label: &name, checkpoint: &a, summary: &summary, statistics: &figures };
    let Some(other) = against else { return page(&Report { model, against: None }) };
    let b = Checkpoint::open(other).unwrap();
    let (summary, figures, name) = (summarize(&b), measured(&b), label(other));
    let options = diff::Options { threads, ..diff::Options::default() };
    let tensors = diff::tensors(&a, &b, &options, &NoProgress).unwrap();
    let second = Subject { label: &name, checkpoint: &b, summary: &summary, statistics: &figures };
    page(&Report { model, against: Some((second, &tensors)) })
}

/// Reads the tags of a page and checks that they are closed in order. Returns the names of all elements.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut all, mut rest) = (Vec::new(), Vec::new(), page);
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        // A `>` within a value in quotes does not end the tag.
        let mut quoted = false;
        let end = rest.char_indices().find(|&(_, c)| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let end = end.unwrap_or_else(|| panic!("a tag without end: {}", &rest[..rest.len().min(80)])).0;
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed by <{tag}>");
        } else if name != "!DOCTYPE" {
            attributes(tag);
            if !tag.ends_with('/') && !["meta", "input"].contains(&name.as_str()) {
                open.push(name.clone());
            }
            all.push(name.clone());
            if name == "style" {
                let (style, after) = rest.split_at(rest.find("</style>").unwrap());
                assert!(!["url(", "@import", "http"].iter().any(|address| style.contains(address)));
                rest = after;
            }
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    all
}

/// Checks that no attribute of a tag loads or runs anything: what is in quotes is left out, but for links.
fn attributes(tag: &str) {
    for (at, part) in tag.split('"').enumerate().filter(|(at, _)| at % 2 == 0) {
        for name in part.split_whitespace().skip(usize::from(at == 0)) {
            let name = name.trim_end_matches('=');
            let allowed =
                !name.starts_with("on") && !["src", "style", "action", "xlink:href"].contains(&name);
            assert!(allowed, "{name} in <{tag}>");
            assert!(name != "href" || tag.contains("href=\"#"), "<{tag}>");
        }
    }
}

fn checked(page: &str) {
    let all = elements(page);
    for forbidden in
        ["script", "link", "img", "iframe", "object", "base", "image", "use", "foreignObject", "b1"]
    {
        assert!(!all.iter().any(|name| name == forbidden), "<{forbidden}>");
    }
    let charts = all.iter().filter(|name| *name == "svg").count();
    assert!(charts > 5, "{charts}");
    assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), charts);
    let mut last = 0;
    for heading in all.iter().filter_map(|name| name.strip_prefix('h')?.parse::<u32>().ok()) {
        assert!(heading <= last + 1, "h{heading} after h{last}");
        last = heading;
    }
    assert!(!page.contains("could not be drawn"));
}

#[test]
fn pages_are_well_formed_and_load_nothing() {
    let (f16, q4) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let one = made(&f16, None, 2);
    checked(&one);
    for part in [
        "Sizes by type",
        "Types by layer",
        "Value histograms",
        "Outlier channels",
        "Tokenizer",
        "config.json",
        "Metadata",
    ] {
        assert!(one.contains(part), "{part}");
    }
    assert!(!one.contains("Difference of B from A"));
    let two = made(&f16, Some(&q4), 2);
    checked(&two);
    for part in [
        "Difference of B from A",
        "Relative RMSE by layer",
        "1 − lowest cosine by layer",
        "Tensors that differ most",
        ">q6_K<",
    ] {
        assert!(two.contains(part), "{part}");
    }
}

#[test]
fn a_page_is_the_same_for_every_number_of_threads() {
    let (f16, q4) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let one = made(&f16, Some(&q4), 1);
    for threads in [2, 4] {
        assert!(made(&f16, Some(&q4), threads) == one, "{threads} threads give another page");
    }
}

#[test]
fn a_model_against_itself_has_no_error() {
    let q4 = fixture("bookworm-4m-Q4_K_M.gguf");
    let page = made(&q4, Some(&q4), 2);
    checked(&page);
    assert!(page.contains("No tensor that can be compared value by value differs."));
    assert!(page.contains("cosine is 1.000000"));
}

/// Text that would be markup, close an element or an attribute, or be a script.
const HOSTILE: &str =
    "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'><b1 a=\"&\u{202e}\0";

/// A GGUF file with hostile names, keys, values, architecture and template.
fn hostile(folder: &Path) -> PathBuf {
    let file = folder.join("hostile.gguf");
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", HOSTILE);
    metadata.set("general.name", HOSTILE);
    metadata.set(format!("key{HOSTILE}"), HOSTILE);
    metadata.set("tokenizer.chat_template", format!("{HOSTILE}{}", "long ".repeat(1_000_000)).as_str());
    metadata.set("tokenizer.ggml.model", HOSTILE);
    // GGUF allows 63 bytes.
    let parts = ["</svg><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"'><b1 a=\"&\u{202e}"];
    let names = parts.map(|part| format!("blk.0.{}.weight", part.replace('.', "_")));
    let plan: Vec<TensorPlan> = names
        .iter()
        .map(|name| TensorPlan { name: name.clone(), element_type: ElementType::F32, shape: vec![4, 8] })
        .collect();
    let mut writer = gguf::Writer::create(&file, &metadata, &plan, false).unwrap();
    for number in 0..3u32 {
        let values = (0..32u32).flat_map(|i| ((i * 7 % 11) as f32 - 5.0 + number as f32).to_le_bytes());
        writer.write(&values.collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
    file
}

#[test]
fn nothing_in_a_file_becomes_markup_and_nothing_makes_the_page_long() {
    let folder = tempfile::tempdir().unwrap();
    let file = hostile(folder.path());
    for page in [made(&file, None, 1), made(&file, Some(&file), 1)] {
        checked(&page);
        assert!(!page.contains(folder.path().to_str().unwrap()), "the page says where the file is");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        for raw in ["<script", "<img", "<b1", "\u{202e}", "\0"] {
            assert!(!page.contains(raw), "{raw:?}");
        }
        assert!(page.contains("more characters)"), "the template is not cut");
        assert!(page.len() < 500_000, "{} bytes", page.len());
    }
}

#[test]
fn models_of_all_kinds_have_a_page() {
    let mut models = vec![fixture("vocab/ggml-vocab-phi-3.gguf")];
    for folder in ["architectures", "packed", "bitsandbytes", "pytorch"] {
        let entries = std::fs::read_dir(fixture(folder)).unwrap();
        models.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let mut pages = 0;
    for model in models.iter().filter(|model| Checkpoint::open(model).is_ok()) {
        let page = made(model, None, 2);
        elements(&page);
        assert!(page.contains("id=\"tensors\""), "{}", model.display());
        pages += 1;
    }
    assert!(pages > 10, "{pages} models");
}

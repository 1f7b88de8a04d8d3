//! PyTorch files that break a rule each, or that want to run something: always an error that names file and rule,
//! never a panic, nothing run, no memory that the file does not justify.

use std::time::{Duration, Instant};

use quern_tensor_io::Checkpoint;

use super::pytorch_bytes::*;
use super::{Scratch, assert_content_refused};

/// The pickle as the file's, with a storage of 16 bytes.
#[track_caller]
fn refused(pickle: Vec<u8>, what: &[&str]) {
    assert_content_refused("hostile.bin", &archive(pickle.clone(), &[16]), what);
    assert_content_refused("hostile.pt", &legacy(pickle, &[("0", 4, 16)]), &[]);
}

fn pickle(body: &[u8]) -> Vec<u8> {
    Pickle::new().bytes(body).stop()
}

fn tensor(change: impl Fn(&mut Sketch)) -> Vec<u8> {
    let mut sketch = row("0", 4);
    change(&mut sketch);
    dict(&[("w", sketch)])
}

#[test]
fn programs_are_never_run() {
    let marker = std::env::temp_dir().join(format!("quern-pwned-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen")] {
        let by_name = Pickle::new().global(module, name).bytes(b"(").text(&command).bytes(b"tR").stop();
        let full = format!("\"{module}.{name}\"");
        refused(by_name, &[&full, "was not run", "malicious", "safetensors"]);
        let from_stack =
            Pickle::new().text(module).text(name).bytes(b"\x93(").text(&command).bytes(b"tR").stop();
        refused(from_stack, &[&full, "malicious"]);
        let instance =
            Pickle::new().bytes(b"(").text(&command).bytes(format!("i{module}\n{name}\n").as_bytes());
        refused(instance.stop(), &[&full, "malicious"]);
    }
    // Within a sound state dict too, before and behind the tensors.
    let evil = |p: Pickle| p.text("x").global("builtins", "eval").bytes(b"(").text("1").bytes(b"tRs");
    refused(evil(Pickle::new().bytes(b"}")).entry("w", &row("0", 4)).stop(), &["\"builtins.eval\""]);
    refused(evil(Pickle::new().bytes(b"}").entry("w", &row("0", 4))).stop(), &["\"builtins.eval\""]);
    for (module, name) in [
        ("builtins", "getattr"),
        ("builtins", "exec"),
        ("torch.hub", "load"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "Evil.Storage"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("numpy.core.multiarray", "scalar"),
        ("__main__", "Model"),
    ] {
        refused(Pickle::new().global(module, name).stop(), &[&format!("\"{module}.{name}\"")]);
    }
    assert!(!marker.exists());
}

#[test]
fn broken_pickles() {
    let cases: &[(&[u8], &[&str])] = &[
        (b"\x80\x01}", &["protocol 1"]),
        (b"\x80\x06}", &["protocol 6"]),
        (b"S'text'\n", &["opcode 0x53", "'S'", "torch.save"]),
        (b"I1\n", &["opcode 0x49"]),
        (b"P0\n", &["opcode 0x50"]),
        (b"\x82\x01", &["opcode 0x82"]),
        (b"\x97", &["opcode 0x97"]),
        (b"\xff", &["opcode 0xff"]),
        (b"h\x07", &["reads entry 7 of its memo"]),
        (b"j\xff\xff\xff\xff", &["reads entry 4294967295 of its memo"]),
        (b"q\x00", &["value is missing"]),
        (b"r\xff\xff\xff\xff", &["value is missing"]),
        (b"0", &["value is missing"]),
        (b"2", &["value is missing"]),
        (b"N(0", &["value is missing"]),
        (b"N(\x85", &["value is missing"]),
        (b"N\x86", &["value is missing"]),
        (b"N(a", &["value is missing"]),
        (b"t", &["mark is missing"]),
        (b"1", &["mark is missing"]),
        (b"Nl", &["mark is missing"]),
        (b"}Nu", &["mark is missing"]),
        (b"}(Nu", &["key without a value"]),
        (b"(Nd", &["key without a value"]),
        (b"Na", &["value is missing"]),
        (b"}Na", &["added to something that is no list"]),
        (b")(NNe", &["added to something that is no list"]),
        (b"]NNs", &["added to something that is no dict"]),
        (b"N(NNu", &["added to something that is no dict"]),
        (b"]}b", &["no dict"]),
        (b"NN", &["values left over"]),
        (b"(N", &["values left over"]),
        (b"N)R", &["no name is called"]),
        (b"ccollections\nOrderedDict\n]R", &["arguments are no tuple"]),
        (b"ccollections\nOrderedDict\nN\x85R", &["OrderedDict is called with 1"]),
        (b"ccollections\nOrderedDict\n]N\x86R", &["OrderedDict is called with 2"]),
        (b"ccollections\nOrderedDict\n](NNe\x85R", &["no pair"]),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", &["called with 0 arguments"]),
        (b"ctorch._utils\n_rebuild_parameter\nN\x85R", &["called with 1 arguments"]),
        (b"NN\x93", &["no text"]),
        (b"c\xff\nx\n", &["not UTF-8"]),
        (b"X\x02\x00\x00\x00\xff\xfe", &["not UTF-8"]),
        (b"X\xff\xff\xff\xffabc", &["cut short"]),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", &["cut short"]),
        (b"B\xff\xff\xff\x7fabc", &["cut short"]),
        (b"T\xff\xff\xff\xffabc", &["cut short"]),
        (b"\x8b\xff\xff\xff\x7fabc", &["cut short"]),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", &["a frame of 18446744073709551615 bytes"]),
        (b"NQ", &["no storage"]),
        (b"(X\x06\x00\x00\x00modulectorch\nSize\nNNtQ", &["no storage", "state_dict()"]),
        (b"N", &["no state dict"]),
        (b"]", &["no state dict"]),
        (b"}", &["no tensors"]),
        (b"K\x01}", &["values left over"]),
    ];
    for (body, what) in cases {
        println!("{:?}", String::from_utf8_lossy(body));
        let whole = [body, &b"."[..]].concat();
        assert_content_refused("hostile.bin", &archive(whole.clone(), &[16]), what);
        assert_content_refused("hostile.pt", &legacy(whole, &[]), &[]);
    }
    let long = [b"c".to_vec(), vec![b'x'; 300], b"\ny\n.".to_vec()].concat();
    refused(long, &["a name without an end"]);
    assert_content_refused("m.bin", &archive(b"}".to_vec(), &[]), &["cut short", "at byte"]);
    assert_content_refused("m.bin", &archive(vec![], &[]), &["cut short"]);
    let behind = [tensor(|_| ()), b"N.".to_vec()].concat();
    assert_content_refused("m.bin", &archive(behind, &[16]), &["bytes follow the pickle"]);
}

#[test]
fn broken_storages() {
    let of = |build: &dyn Fn(Pickle) -> Pickle| {
        let pickle =
            Pickle::new().bytes(b"}").text("w").global("torch._utils", "_rebuild_tensor").bytes(b"(");
        build(pickle).int(0).ints(&[4]).ints(&[1]).bytes(b"tRs").stop()
    };
    refused(of(&|p| p.bytes(b"N")), &["without a storage"]);
    refused(of(&|p| p.storage("FloatStorage", "0", -4)), &["a storage of -4 values"]);
    refused(of(&|p| p.storage("float32", "0", 4)), &["without a type or key"]);
    refused(of(&|p| p.storage("EvilStorage", "0", 4)), &["torch.EvilStorage"]);
    refused(of(&|p| p.bytes(b"(").text("storage").bytes(b"NNNNtQ")), &["no storage"]);
    let with_key = |p: Pickle, key: &[u8]| {
        let p = p.bytes(b"(").text("storage").global("torch", "FloatStorage").bytes(key);
        p.text("cpu").int(4).bytes(b"tQ")
    };
    refused(of(&|p| with_key(p, b"K\x00")), &["without a type or key"]);
    refused(of(&|p| with_key(p, b"X\x01\x00\x00\x007")), &["tensor \"w\"", "storage \"7\" is not in"]);
    refused(of(&|p| with_key(p, b"X\x0b\x00\x00\x00../data.pkl")), &["tensor \"w\"", "is not in"]);
    let viewed = |view: &dyn Fn(Pickle) -> Pickle| {
        let of = of(&|p| {
            let p =
                p.bytes(b"(").text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(4);
            view(p).bytes(b"tQ")
        });
        legacy(of, &[("0", 4, 16)])
    };
    let view = |offset, count| viewed(&|p| p.bytes(b"(").text("v").int(offset).int(count).bytes(b"t"));
    Checkpoint::open(&Scratch::new().file("sound.pt", view(0, 4))).unwrap();
    for (offset, count) in [(1, 4), (0, 5), (i64::MAX, i64::MAX)] {
        assert_content_refused("v.pt", &view(offset, count), &["tensor \"w\"", "a view of"]);
    }
    assert_content_refused("v.pt", &view(-1, 2), &["a view of 2 values at -1"]);
    assert_content_refused("v.pt", &view(1, 3), &["tensor \"w\"", "reaches beyond its storage of 3"]);
    assert_content_refused("v.pt", &viewed(&|p| p.bytes(b"K\x01")), &["a view of a storage that is none"]);
}

#[test]
fn broken_tensors() {
    let refused = |change: &dyn Fn(&mut Sketch), what: &[&str]| {
        let mut all = vec!["tensor \"w\""];
        all.extend_from_slice(what);
        refused(tensor(change), &all);
        // In the old format the same, but for storages whose length the file says itself.
        assert_content_refused("t.pt", &legacy(tensor(change), &[("0", 4, 16)]), &[]);
    };
    refused(&|s| s.count = 5, &["storage \"0\" has 5 numbers of 4 bytes", "the file has 16 bytes of it"]);
    refused(&|s| s.count = 3, &["has 3 numbers of 4 bytes"]);
    refused(&|s| s.count = i64::MAX, &["has 9223372036854775807 numbers"]);
    refused(&|s| s.key = "1", &["storage \"1\" is not in"]);
    refused(&|s| s.offset = 1, &["reaches beyond its storage of 4 values, from value 1 on"]);
    refused(&|s| s.offset = 5, &["begins at value 5"]);
    refused(&|s| s.offset = -1, &["begins at value -1"]);
    refused(&|s| s.offset = i64::MIN, &["begins at value -9223372036854775808"]);
    refused(&|s| s.shape = vec![5], &["reaches beyond"]);
    refused(&|s| s.shape = vec![-1], &["shape and strides"]);
    refused(&|s| s.shape = vec![2, 2], &["shape and strides"]);
    refused(&|s| s.shape = vec![i64::MAX], &["overflows"]);
    refused(&|s| (s.shape, s.strides) = (vec![1 << 40, 1 << 40], vec![0, 0]), &["overflows"]);
    refused(&|s| (s.shape, s.strides) = (vec![0, 1 << 40, 1 << 40], vec![0, 0, 0]), &["overflows"]);
    refused(&|s| (s.shape, s.strides) = (vec![1; 9], vec![1; 9]), &["has 9 dimensions"]);
    refused(&|s| s.strides = vec![-1], &["shape and strides"]);
    refused(&|s| s.strides = vec![2], &["reaches beyond"]);
    refused(&|s| (s.shape, s.strides) = (vec![2, 2], vec![i64::MAX, i64::MAX]), &["reaches beyond"]);
    refused(&|s| (s.shape, s.strides) = (vec![3, 2], vec![1 << 61, 1]), &["reaches beyond"]);
    // One number shown a million times, and a thousand times more than the file has.
    refused(&|s| (s.shape, s.strides) = (vec![1 << 20], vec![0]), &["expanded view", "contiguous()"]);
    refused(&|s| (s.shape, s.strides) = (vec![1 << 20, 1 << 20], vec![0, 0]), &["expanded view"]);

    let v3 = |dtype: &str, storage: &str, count: i64| {
        let p = Pickle::new().bytes(b"}").text("w").global("torch._utils", "_rebuild_tensor_v3").bytes(b"(");
        let p =
            p.bytes(b"(").text("storage").global("torch.storage", storage).text("0").text("cpu").int(count);
        let p = p.bytes(b"tQ").int(0).ints(&[4]).ints(&[1]).bytes(b"\x89N");
        let p = p.global("torch", dtype).bytes(b"tRs").stop();
        archive(p, &[16])
    };
    let scratch = Scratch::new();
    let model = Checkpoint::open(&scratch.file("v3.bin", v3("uint32", "UntypedStorage", 16))).unwrap();
    assert_eq!(model.tensor("w").unwrap().data.len(), 16);
    assert_content_refused(
        "v3.bin",
        &v3("uint64", "UntypedStorage", 16),
        &["reaches beyond its storage of 2"],
    );
    assert_content_refused("v3.bin", &v3("uint32", "UntypedStorage", 4), &["has 4 numbers of 1 bytes"]);
    assert_content_refused("v3.bin", &v3("uint32", "FloatStorage", 4), &["its dtype says"]);
    assert_content_refused("v3.bin", &v3("complex64", "UntypedStorage", 16), &["complex64"]);
    assert_content_refused("v3.bin", &v3("Size", "UntypedStorage", 16), &["dtype is none"]);
}

#[test]
fn marks_of_tensors() {
    let marked = |value: &[u8]| {
        let p = Pickle::new().bytes(b"}").text("w").global("torch._utils", "_rebuild_tensor_v2").bytes(b"(");
        let p = p.storage("FloatStorage", "0", 4).int(0).ints(&[4]).ints(&[1]).bytes(b"\x89N}").text("neg");
        archive(p.bytes(value).bytes(b"stRs").stop(), &[16])
    };
    Checkpoint::open(&Scratch::new().file("sound.bin", marked(b"\x89"))).unwrap();
    assert_content_refused("neg.bin", &marked(b"\x88"), &["tensor \"w\"", "negated", "resolve_neg()"]);
}

#[test]
fn broken_state_dicts() {
    refused(dict(&[("w", row("0", 4)), ("w", row("0", 4))]), &["\"w\" twice"]);
    refused(dict(&[("", row("0", 4))]), &["empty name"]);
    refused(Pickle::new().bytes(b"}N").tensor(&row("0", 4)).bytes(b"s").stop(), &["no name"]);
    // A wrapper that is no dict, and one without tensors.
    let text = Pickle::new().bytes(b"}").text("state_dict").text("x").bytes(b"s").stop();
    refused(text, &["no tensors"]);
    let empty = Pickle::new().bytes(b"}").entry("w", &row("0", 4)).text("model").bytes(b"}s").stop();
    refused(empty, &["no tensors"]);
    let same = Pickle::new().bytes(b"}").text("a").bytes(b"}").entry("w", &row("0", 4)).bytes(b"q\x00s");
    refused(same.text("b").bytes(b"h\x00s").stop(), &["same dict or list of tensors twice", "\"b\""]);
    let deep = (0..40).fold(Pickle::new().bytes(b"}"), |p, _| p.text("d").bytes(b"}"));
    let deep = (0..40).fold(deep.entry("w", &row("0", 4)), |p, _| p.bytes(b"s")).stop();
    refused(deep, &["more than 32 levels"]);
    // Names made longer by being joined.
    let long = "n".repeat(2000);
    let mut p =
        Pickle::new().bytes(b"}").text(&long).bytes(b"}").text("x").tensor(&row("0", 4)).bytes(b"q\x01s");
    for i in 0..2000 {
        p = p.text(&i.to_string()).bytes(b"h\x01s");
    }
    refused(p.bytes(b"s").stop(), &["names in the state dict are longer"]);
}

/// What could take time or memory without end takes little of both.
#[test]
fn bombs() {
    let start = Instant::now();
    let bomb = |body: Vec<u8>| {
        let scratch = Scratch::in_memory();
        let path = scratch.file("bomb.bin", archive(pickle(&body), &[16]));
        assert!(Checkpoint::open(&path).is_err());
    };
    let doubled = |open: &[u8], close: &[u8]| {
        // Each holds the one before twice.
        let mut body = b"}X\x01\x00\x00\x00w".to_vec();
        body.extend_from_slice(b"Nq\x00");
        for _ in 0..200 {
            body.extend_from_slice(&[open, b"h\x00h\x00", close, b"q\x00"].concat());
        }
        [body, b"\x85s".to_vec()].concat()
    };
    bomb(doubled(b"(", b"t"));
    bomb(doubled(b"](", b"e"));
    bomb(doubled(b"(", b"l"));
    let mut dicts = b"}q\x00".to_vec();
    for _ in 0..200 {
        dicts.extend_from_slice(b"}(K\x00h\x00K\x01h\x00uq\x00");
    }
    bomb(dicts);
    bomb(b"}q\x00K\x01h\x00s".to_vec()); // within itself
    bomb(b"}X\x01\x00\x00\x00w]q\x00h\x00as".to_vec());
    bomb([vec![b']'; 300_000], vec![b'a'; 299_999]].concat()); // very deep
    bomb([vec![b'('; 300_000], vec![b't'; 300_000]].concat());
    bomb(b"(l".repeat(100_000));
    bomb(vec![b'('; 2_000_000]);
    bomb(vec![b'N'; 2_000_000]);
    bomb([b"N".to_vec(), b"2".repeat(2_000_000)].concat());
    bomb(b"Nr\xff\xff\xff\xff0".repeat(1000));
    // The same thousand pairs made into a dict again and again.
    let mut pairs = b"ccollections\nOrderedDict\nq\x00](".to_vec();
    pairs.extend(b"NN\x86".repeat(1000));
    pairs.extend_from_slice(b"e\x85q\x01");
    pairs.extend(b"h\x00h\x01R".repeat(100_000));
    bomb(pairs);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

//! Opening a file takes at most 64 MiB beyond its size, whatever its header claims: measured by an allocator that
//! counts. The kinds of files are those whose entries take many times their bytes in memory.

#[path = "../../../tests/allocation.rs"]
mod allocation;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use allocation::{Counting, peak};
use quern_tensor_io::Checkpoint;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What opening may take beyond the file's size, allocated and in touched pages of the map: the bound less what a program
/// takes that does nothing.
const MOST: usize = 56 << 20;

/// A file that is written piece by piece, so that the test's own buffers are small.
struct Writing(BufWriter<File>);

impl Writing {
    fn new(path: &Path) -> Self {
        Self(BufWriter::new(File::create(path).unwrap()))
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.write_all(bytes).unwrap();
        self
    }

    fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn end(&mut self) {
        self.0.flush().unwrap();
    }
}

/// Four letters, different for every number below 2^24.
fn name(i: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    [0, 6, 12, 18].iter().map(|shift| char::from(LETTERS[i >> shift & 63])).collect()
}

fn gguf(path: &Path, tensors: usize, entries: usize) -> Writing {
    let mut file = Writing::new(path);
    file.bytes(b"GGUF").u32(3).u64(tensors as u64).u64(entries as u64);
    file
}

fn gguf_entries(path: &Path, size: usize) {
    let count = size / 17;
    let mut file = gguf(path, 0, count);
    (0..count).for_each(|i| _ = file.string(&name(i)).u32(0).bytes(&[1]));
    file.end();
}

fn gguf_tensors(path: &Path, size: usize) {
    let count = size / 28;
    let mut file = gguf(path, count, 0);
    (0..count).for_each(|i| _ = file.string(&name(i)).u32(1).u64(0).u32(0).u64(0));
    file.end();
}

fn gguf_vocabulary(path: &Path, size: usize) {
    let count = size / 20;
    let mut file = gguf(path, 0, 3);
    file.string("tokenizer.ggml.tokens").u32(9).u32(8).u64(count as u64);
    (0..count).for_each(|i| _ = file.string(&name(i)));
    for (key, kind) in [("tokenizer.ggml.scores", 6), ("tokenizer.ggml.token_type", 5)] {
        file.string(key).u32(9).u32(kind).u64(count as u64);
        (0..count).for_each(|_| _ = file.u32(1));
    }
    file.end();
}

fn gguf_empty_strings(path: &Path, size: usize) {
    let mut file = gguf(path, 0, 1);
    file.string("tokenizer.ggml.merges").u32(9).u32(8).u64(size as u64 / 8);
    (0..size / 8).for_each(|_| _ = file.string(""));
    file.end();
}

fn gguf_long_text(path: &Path, size: usize) {
    let mut file = gguf(path, 0, 1);
    file.string("tokenizer.chat_template").u32(8).string(&"x".repeat(size)).end();
}

/// A safetensors header of entries `entry(i)`, between `before` and `behind`.
fn safetensors(path: &Path, size: usize, around: (&str, &str), entry: impl Fn(usize) -> String) {
    let (mut text, mut i) = (around.0.to_owned(), 0);
    while text.len() < size {
        text += &entry(i);
        text.push(',');
        i += 1;
    }
    text.pop();
    text += around.1;
    Writing::new(path).u64(text.len() as u64).bytes(text.as_bytes()).end();
}

fn safetensors_tensors(path: &Path, size: usize) {
    let entry = |i| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    safetensors(path, size, ("{", "}"), entry);
}

fn safetensors_escaped(path: &Path, size: usize) {
    let entry = |i| format!(r#""\u0061{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    safetensors(path, size, ("{", "}"), entry);
}

fn safetensors_metadata(path: &Path, size: usize) {
    safetensors(path, size, (r#"{"__metadata__":{"#, "}}"), |i| format!(r#""{i:x}":"""#));
}

fn safetensors_shape(path: &Path, size: usize) {
    let around = (r#"{"a":{"dtype":"U8","shape":["#, r#"],"data_offsets":[0,1]}}"#);
    safetensors(path, size, around, |_| "1".into());
}

fn safetensors_shapes(path: &Path, size: usize) {
    let shape = "1,".repeat(60);
    let entry = |i| format!(r#""{i:x}":{{"dtype":"U8","shape":[{shape}0],"data_offsets":[0,0]}}"#);
    safetensors(path, size, ("{", "}"), entry);
}

fn index(path: &Path, size: usize, entry: impl Fn(usize) -> String) {
    Writing::new(&path.with_file_name("a.safetensors")).u64(2).bytes(b"{}").end();
    let mut file = Writing::new(path);
    file.bytes(br#"{"weight_map":{"#);
    let (mut written, mut i) = (0, 0);
    while written < size {
        let entry = entry(i);
        written += entry.len() + 1;
        i += 1;
        file.bytes(if i == 1 { b"" } else { b"," }).bytes(entry.as_bytes());
    }
    file.bytes(b"}}").end();
}

fn index_tensors(path: &Path, size: usize) {
    index(path, size, |i| format!(r#""{i:x}":"a.safetensors""#));
}

fn index_shards(path: &Path, size: usize) {
    index(path, size, |i| format!(r#""{i:x}":"{i:x}""#));
}

/// A zip archive of these entries, stored as they are.
fn archive(path: &Path, entries: &[(String, Vec<u8>)]) {
    let mut file = Writing::new(path);
    let mut directory = Vec::new();
    let mut at = 0u32;
    for (name, data) in entries {
        let sizes = [data.len() as u32; 2].map(u32::to_le_bytes).concat();
        let mut rest = vec![0; 4]; // time and date
        rest.extend([0; 4]); // the checksum, which is not read
        rest.extend(&sizes);
        rest.extend((name.len() as u16).to_le_bytes());
        rest.extend([0; 2]);
        file.u32(0x0403_4b50).bytes(&[20, 0, 0, 0, 0, 0]).bytes(&rest).bytes(name.as_bytes()).bytes(data);
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend([20, 0, 20, 0, 0, 0, 0, 0]);
        directory.extend(&rest);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
        at += (30 + name.len() + data.len()) as u32;
    }
    let count = entries.len() as u64;
    let end = u64::from(at) + directory.len() as u64;
    file.bytes(&directory);
    // The zip64 record and its locator, for more than 65535 entries.
    file.u32(0x0606_4b50).u64(44).bytes(&[45, 0, 45, 0]).u64(0).u64(count).u64(count);
    file.u64(directory.len() as u64).u64(at.into());
    file.u32(0x0706_4b50).u32(0).u64(end).u32(1);
    file.u32(0x0605_4b50).u32(0).u32(u32::MAX).u32(u32::MAX).u32(u32::MAX).bytes(&[0; 2]).end();
}

fn pickle(path: &Path, body: impl IntoIterator<Item = u8>) {
    let mut data = b"\x80\x02".to_vec();
    data.extend(body);
    data.extend(b"}.");
    archive(path, &[("archive/data.pkl".into(), data)]);
}

fn pickle_integers(path: &Path, size: usize) {
    let items = b"(".iter().chain(b"K\0".iter().cycle().take(size)).chain(b"l0");
    pickle(path, items.copied());
}

fn pickle_many(path: &Path, size: usize, of: &[u8]) {
    pickle(path, of.iter().cycle().take(size / of.len() * of.len()).copied());
}

fn pickle_memo(path: &Path, size: usize) {
    let entry = |i: usize| [&b"r"[..], &(i as u32).to_le_bytes()].concat();
    let body = b"N".iter().copied().chain((0..size / 5).flat_map(entry)).chain(*b"0");
    pickle(path, body);
}

fn zip_entries(path: &Path, size: usize) {
    let mut entries: Vec<_> = (0..size / 120).map(|i| (format!("archive/data/{i}"), Vec::new())).collect();
    entries.push(("archive/data.pkl".into(), b"\x80\x02}.".to_vec()));
    archive(path, &entries);
}

type Make = fn(&Path, usize);

const KINDS: [(&str, Make); 22] = [
    ("entries.gguf", gguf_entries),
    ("tensors.gguf", gguf_tensors),
    ("vocabulary.gguf", gguf_vocabulary),
    ("empty-strings.gguf", gguf_empty_strings),
    ("long-text.gguf", gguf_long_text),
    ("tensors.safetensors", safetensors_tensors),
    ("escaped.safetensors", safetensors_escaped),
    ("metadata.safetensors", safetensors_metadata),
    ("shape.safetensors", safetensors_shape),
    ("shapes.safetensors", safetensors_shapes),
    ("tensors.index.json", index_tensors),
    ("shards.index.json", index_shards),
    ("integers.bin", pickle_integers),
    ("dicts.bin", |path, size| pickle_many(path, size, b"}")),
    ("dropped-dicts.bin", |path, size| pickle_many(path, size, b"}0")),
    ("dropped-lists.bin", |path, size| pickle_many(path, size, b"]0")),
    ("tuples.bin", |path, size| pickle_many(path, size, b"NNN\x870")),
    ("lists.bin", |path, size| pickle_many(path, size, b"]")),
    ("duplicates.bin", |path, size| pickle_many(path, size, b"N2")),
    ("marks.bin", |path, size| pickle_many(path, size, b"(")),
    ("memo.bin", pickle_memo),
    ("entries.bin", zip_entries),
];

#[test]
fn opening_takes_no_more_than_the_file_justifies() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for (name, make) in KINDS {
        for size in [1 << 18, 1 << 20, 3 << 20, 8 << 20, 24 << 20] {
            let path = folder.path().join(name);
            make(&path, size);
            let bytes = path.metadata().unwrap().len() as usize;
            assert!(bytes >= size / 2, "{name}: the test made {bytes} bytes instead of {size}");
            let (taken, opened) = peak(|| Checkpoint::open(&path));
            println!(
                "{name} of {bytes}: {taken} allocated, {:?}",
                opened.as_ref().err().map(|e| e.to_string())
            );
            // Pickles and GGUF files are read from front to back, so that only what is before the error was touched.
            let front = [".bin", ".gguf"].iter().any(|end| name.ends_with(end));
            let touched = match &opened {
                Err(e) if front => e.offset.map_or(bytes, |at| at as usize),
                _ => bytes,
            };
            assert!(taken + touched <= bytes + MOST, "{name} of {bytes} bytes took {taken} bytes of memory");
            if let Err(e) = opened {
                let text = e.to_string();
                assert!(text.contains(name) && !text.contains('\n'), "{text}");
                refused += 1;
            }
        }
    }
    // The small ones of most kinds are accepted: the limit is not that nothing opens.
    assert!((40..100).contains(&refused), "{refused} were refused");
    the_largest_models_open(folder.path());
}

/// A mixture of experts of 60 layers and 512 experts, each matrix in four tensors.
fn tensor_names() -> impl Iterator<Item = String> {
    (0..60usize).flat_map(|layer| {
        (0..512usize).flat_map(move |expert| {
            ["gate", "up", "down"].into_iter().flat_map(move |matrix| {
                let parts = ["qweight", "qzeros", "scales", "g_idx"];
                parts.map(move |part| {
                    format!("model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.{part}")
                })
            })
        })
    })
}

/// Called by the test above, because what is measured is the whole process.
fn the_largest_models_open(folder: &Path) {
    const DATA: u64 = 4096;
    let count = tensor_names().count();
    assert_eq!(count, 368_640);
    let path: PathBuf = folder.join("largest.gguf");
    let mut file = gguf(&path, count, 0);
    let name = |name: String| name.replace("model.layers.", "blk.").replace(".mlp.experts", "");
    for (i, tensor) in tensor_names().enumerate() {
        file.string(&name(tensor)).u32(2).u64(DATA).u64(1).u32(24).u64(i as u64 * DATA);
    }
    file.end();
    grow(&path, count as u64 * DATA + 64);
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(model.tensors().len(), count);
    assert_eq!(model.index_of("blk.59.511.down_proj.g_idx"), Some(count - 1));

    let path: PathBuf = folder.join("largest.safetensors");
    let entries = tensor_names().enumerate().map(|(i, name)| {
        let (begin, end) = (i as u64 * DATA, (i as u64 + 1) * DATA);
        format!(r#""{name}":{{"dtype":"I8","shape":[{DATA},1],"data_offsets":[{begin},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    Writing::new(&path).u64(header.len() as u64).bytes(header.as_bytes()).end();
    grow(&path, count as u64 * DATA);
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(model.tensors().len(), count);

    let listing = tensor_names().map(|name| format!(r#""{name}":"largest.safetensors""#));
    let listing = format!(r#"{{"weight_map":{{{}}}}}"#, listing.collect::<Vec<_>>().join(","));
    let path = folder.join("model.safetensors.index.json");
    Writing::new(&path).bytes(listing.as_bytes()).end();
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), count);
}

/// Makes a file longer, by a hole.
fn grow(path: &Path, by: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() + by).unwrap();
}

//! Files of torch.save, made one byte after the other.

/// A pickle.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

/// A tensor as a pickle describes it, with the numbers that may be wrong.
#[derive(Clone)]
pub struct Sketch {
    pub storage: &'static str,
    pub key: &'static str,
    pub count: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// Float numbers in order, `count` of them in a row of the storage `key`.
pub fn row(key: &'static str, count: i64) -> Sketch {
    Sketch { storage: "FloatStorage", key, count, offset: 0, shape: vec![count], strides: vec![1] }
}

impl Pickle {
    /// Protocol 2.
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.bytes(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn text(self, text: &str) -> Self {
        self.bytes(b"X").bytes(&(text.len() as u32).to_le_bytes()).bytes(text.as_bytes())
    }

    /// As LONG1, so that any number has the same form.
    pub fn int(self, value: i64) -> Self {
        self.bytes(&[0x8a, 8]).bytes(&value.to_le_bytes())
    }

    pub fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.bytes(b"("), |p, v| p.int(*v)).bytes(b"t")
    }

    pub fn storage(self, kind: &str, key: &str, count: i64) -> Self {
        let pickle = self.bytes(b"(").text("storage").global("torch", kind).text(key).text("cpu");
        pickle.int(count).bytes(b"tQ")
    }

    pub fn tensor(self, sketch: &Sketch) -> Self {
        let pickle = self.global("torch._utils", "_rebuild_tensor_v2").bytes(b"(");
        let pickle = pickle.storage(sketch.storage, sketch.key, sketch.count).int(sketch.offset);
        pickle
            .ints(&sketch.shape)
            .ints(&sketch.strides)
            .bytes(b"\x89")
            .global("collections", "OrderedDict")
            .bytes(b")RtR")
    }

    /// An entry of the dict on the stack.
    pub fn entry(self, name: &str, sketch: &Sketch) -> Self {
        self.text(name).tensor(sketch).bytes(b"s")
    }

    pub fn stop(self) -> Vec<u8> {
        self.bytes(b".").0
    }
}

/// The pickle of a dict of tensors.
pub fn dict(entries: &[(&str, Sketch)]) -> Vec<u8> {
    entries.iter().fold(Pickle::new().bytes(b"}"), |p, (name, sketch)| p.entry(name, sketch)).stop()
}

/// An entry of an archive, with the numbers that may be wrong.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub local_name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    pub stored: Option<u32>,
    pub size: Option<u32>,
    pub header: Option<u32>,
    /// Numbers of the directory in the zip64 field.
    pub wide: bool,
}

pub fn entry(name: &str, data: impl Into<Vec<u8>>) -> Entry {
    Entry {
        name: name.into(),
        local_name: name.into(),
        data: data.into(),
        method: 0,
        flags: 0,
        stored: None,
        size: None,
        header: None,
        wide: false,
    }
}

/// The end of an archive.
#[derive(Clone, Default)]
pub struct End {
    pub count: Option<u16>,
    pub offset: Option<u32>,
    pub bytes: Option<u32>,
    pub disk: u16,
    /// By a zip64 record too, whose place may be moved.
    pub wide: Option<i64>,
    pub comment: Vec<u8>,
}

pub fn zip(entries: &[Entry], end: &End) -> Vec<u8> {
    let u16s = |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let u32s = |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let header = entry.header.unwrap_or(file.len() as u32);
        let size = entry.data.len() as u32;
        let (stored, size) = (entry.stored.unwrap_or(size), entry.size.unwrap_or(size));
        // torch pads the local extra field so that data begin at multiples of 64.
        let pad = (64 - (file.len() + 34 + entry.local_name.len()) % 64) % 64;
        file.extend(b"PK\x03\x04");
        file.extend(u16s(&[0, entry.flags, entry.method]));
        file.extend(u32s(&[0, 0, stored, size]));
        file.extend(u16s(&[entry.local_name.len() as u16, 4 + pad as u16]));
        file.extend(entry.local_name.as_bytes());
        file.extend(u16s(&[0x4246, pad as u16]));
        file.extend(vec![b'Z'; pad]);
        file.extend(&entry.data);

        let full = u32::MAX;
        let narrow = if entry.wide { [full; 3] } else { [stored, size, header] };
        let numbers: Vec<u8> =
            [size, stored, header].iter().flat_map(|&v| u64::from(v).to_le_bytes()).collect();
        let extra =
            if entry.wide { [u16s(&[7, 1]), vec![9], u16s(&[1, 24]), numbers].concat() } else { vec![] };
        directory.extend(b"PK\x01\x02");
        directory.extend(u16s(&[0, 0, entry.flags, entry.method]));
        directory.extend(u32s(&[0, 0, narrow[0], narrow[1]]));
        directory.extend(u16s(&[entry.name.len() as u16, extra.len() as u16, 0, 0, 0]));
        directory.extend(u32s(&[0, narrow[2]]));
        directory.extend(entry.name.as_bytes());
        directory.extend(extra);
    }
    let start = file.len();
    file.extend(&directory);
    let (count, offset) = (entries.len() as u64, start as u64);
    if let Some(moved) = end.wide {
        let at = (file.len() as u64).wrapping_add_signed(moved);
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend(u16s(&[0, 0]));
        file.extend(u32s(&[0, 0]));
        [count, count, directory.len() as u64, offset].iter().for_each(|v| file.extend(v.to_le_bytes()));
        file.extend(b"PK\x06\x07");
        file.extend(u32s(&[0]));
        file.extend(at.to_le_bytes());
        file.extend(u32s(&[1]));
    }
    file.extend(b"PK\x05\x06");
    let count = end.count.unwrap_or(count as u16);
    file.extend(u16s(&[end.disk, end.disk, count, count]));
    let narrow = |value: u64| if end.wide.is_some() { u32::MAX } else { value as u32 };
    file.extend(u32s(&[
        end.bytes.unwrap_or(narrow(directory.len() as u64)),
        end.offset.unwrap_or(narrow(offset)),
    ]));
    file.extend(u16s(&[end.comment.len() as u16]));
    file.extend(&end.comment);
    file
}

/// The entries of a file with this pickle and storages of so many bytes, `0`, `1` and so on.
pub fn entries(pickle: Vec<u8>, storages: &[usize]) -> Vec<Entry> {
    let mut entries = vec![entry("m/data.pkl", pickle), entry("m/byteorder", "little")];
    for (key, bytes) in storages.iter().enumerate() {
        let data: Vec<u8> = (0..*bytes).map(|i| i as u8).collect();
        entries.push(entry(&format!("m/data/{key}"), data));
    }
    entries
}

pub fn archive(pickle: Vec<u8>, storages: &[usize]) -> Vec<u8> {
    zip(&entries(pickle, storages), &End::default())
}

/// Two tensors, one of them a transposed view, with what training frameworks put around.
pub fn sound_pickle() -> Vec<u8> {
    let transposed = Sketch {
        storage: "ShortStorage",
        key: "1",
        count: 6,
        offset: 0,
        shape: vec![3, 2],
        strides: vec![1, 3],
    };
    let pickle = Pickle::new().bytes(b"}q\x00").text("epoch").bytes(b"K\x03s").text("state_dict");
    let pickle = pickle.global("collections", "OrderedDict").bytes(b")Rq\x01");
    let pickle = pickle.entry("a", &row("0", 4)).entry("b", &transposed);
    pickle.bytes(b"}b").bytes(b"s").text("list").bytes(b"](K\x01NG@\x09\x21\xfb\x54\x44\x2d\x18es").stop()
}

pub fn sound_archive() -> Vec<u8> {
    archive(sound_pickle(), &[16, 12])
}

/// A file of the old format: this object, then storages with their counts.
pub fn legacy(object: Vec<u8>, storages: &[(&str, i64, usize)]) -> Vec<u8> {
    let system = Pickle::new().bytes(b"}").text("little_endian").bytes(b"\x88s").stop();
    legacy_of(1001, system, object, storages)
}

pub fn legacy_of(version: i64, system: Vec<u8>, object: Vec<u8>, storages: &[(&str, i64, usize)]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    file.extend(Pickle::new().int(version).stop());
    file.extend(system);
    file.extend(object);
    file.extend(storages.iter().fold(Pickle::new().bytes(b"]"), |p, s| p.text(s.0).bytes(b"a")).stop());
    for (_, count, bytes) in storages {
        file.extend(count.to_le_bytes());
        file.extend((0..*bytes).map(|i| i as u8));
    }
    file
}

/// The same in the old format.
pub fn sound_legacy() -> Vec<u8> {
    legacy(sound_pickle(), &[("1", 6, 12), ("0", 4, 16)])
}

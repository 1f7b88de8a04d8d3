//! PyTorch files whose frame is broken: the zip archive, the records of the older format, their end. Always an error
//! that names file and rule.

use quern_tensor_io::Checkpoint;

use super::pytorch_bytes::*;
use super::{Scratch, assert_content_refused};

#[test]
fn broken_archives() {
    let sound = || entries(sound_pickle(), &[16, 12]);
    let changed = |at: usize, change: &dyn Fn(&mut Entry)| {
        let mut entries = sound();
        change(&mut entries[at]);
        zip(&entries, &End::default())
    };
    let refused = |content: Vec<u8>, what: &[&str]| assert_content_refused("hostile.bin", &content, what);
    refused(changed(0, &|e| e.method = 8), &["\"m/data.pkl\"", "compressed", "zip -0"]);
    refused(changed(2, &|e| e.method = 8), &["tensor \"a\"", "\"m/data/0\"", "compressed (method 8)"]);
    refused(changed(2, &|e| e.flags = 1), &["\"m/data/0\"", "encrypted"]);
    refused(changed(2, &|e| e.stored = Some(15)), &["\"m/data/0\"", "two sizes differ"]);
    refused(
        changed(2, &|e| (e.stored, e.size) = (Some(15), Some(15))),
        &["tensor \"a\"", "the file has 15 bytes of it"],
    );
    refused(changed(3, &|e| (e.stored, e.size) = (Some(1 << 30), Some(1 << 30))), &["ends beyond the end"]);
    refused(
        changed(3, &|e| (e.stored, e.size) = (Some(u32::MAX), Some(u32::MAX))),
        &["directory is damaged"],
    );
    refused(changed(2, &|e| e.header = Some(u32::MAX - 1)), &["\"m/data/0\"", "not where"]);
    refused(changed(2, &|e| e.header = Some(1)), &["\"m/data/0\"", "not where"]);
    refused(changed(2, &|e| e.header = Some(0)), &["\"m/data/0\"", "another name"]);
    refused(changed(2, &|e| e.local_name = "m/data/9".into()), &["another name"]);
    refused(changed(1, &|e| e.data = b"big".into()), &["big-endian", "torch"]);
    refused(changed(1, &|e| e.data = b"middle".into()), &["byte order"]);
    refused(changed(3, &|e| e.name = "m/data/0".into()), &["two entries \"m/data/0\""]);
    refused(changed(0, &|e| e.name = "m/other.pkl".into()), &["without data.pkl"]);
    refused(
        changed(0, &|e| (e.name, e.local_name) = ("x/data.pkl".into(), "x/data.pkl".into())),
        &["tensor \"a\"", "not in the archive"],
    );
    refused(changed(1, &|e| e.name = "m/constants.pkl".into()), &["TorchScript"]);

    let ended = |end: End| zip(&sound(), &end);
    refused(ended(End { count: Some(9), ..End::default() }), &["claims 9 entries"]);
    refused(ended(End { count: Some(5), ..End::default() }), &["claims 5 entries in 221 bytes"]);
    refused(ended(End { count: Some(u16::MAX), ..End::default() }), &["claims 65535 entries"]);
    refused(ended(End { count: Some(3), ..End::default() }), &["54 bytes beyond the 3 entries"]);
    refused(ended(End { offset: Some(1 << 31), ..End::default() }), &["outside the file"]);
    refused(ended(End { offset: Some(u32::MAX), ..End::default() }), &["lacks its zip64"]);
    refused(ended(End { offset: Some(7), ..End::default() }), &["damaged"]);
    refused(ended(End { bytes: Some(u32::MAX - 1), ..End::default() }), &["outside the file"]);
    refused(ended(End { disk: 3, ..End::default() }), &["several parts"]);
    for moved in [-1, 1, i64::MIN, 1 << 40] {
        refused(ended(End { wide: Some(moved), ..End::default() }), &["zip64 record is damaged"]);
    }
    refused(b"PK\x03\x04".to_vec(), &["end record is missing"]);
    refused(b"PK\x03\x04PK\x05\x06".repeat(20), &["end record is missing"]);
    refused([sound_archive(), vec![0]].concat(), &["end record is missing"]);
    let mut bad_name = sound_archive();
    let at = bad_name.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    bad_name[at + 46] = 0xff;
    refused(bad_name, &["not UTF-8"]);
    refused([vec![0; 257], b"ustar".to_vec(), vec![0; 300]].concat(), &["tar format"]);
}

#[test]
fn broken_legacy_files() {
    let system =
        |little: &[u8]| Pickle::new().bytes(b"}").text("little_endian").bytes(little).bytes(b"s").stop();
    let of = |storages: &[(&str, i64, usize)]| legacy(dict(&[("w", row("0", 4))]), storages);
    let refused = |content: Vec<u8>, what: &[&str]| assert_content_refused("hostile.pt", &content, what);
    let object = || dict(&[("w", row("0", 4))]);
    Checkpoint::open(&Scratch::new().file("sound.pt", of(&[("0", 4, 16)]))).unwrap();
    refused(legacy_of(1000, system(b"\x88"), object(), &[("0", 4, 16)]), &["version is not 1001"]);
    refused(legacy_of(1001, system(b"\x89"), object(), &[("0", 4, 16)]), &["big-endian"]);
    refused(of(&[]), &["tensor \"w\"", "storage \"0\" is not in the file"]);
    refused(of(&[("0", 4, 16), ("0", 4, 16)]), &["storage \"0\" comes twice"]);
    refused(of(&[("0", 4, 16), ("7", 4, 16)]), &["no tensor has the storage \"7\""]);
    refused(of(&[("0", 5, 20)]), &["tensor \"w\"", "the file has 20 bytes of it"]);
    refused(of(&[("0", 4, 15)]), &["storage \"0\" ends beyond the end of the file"]);
    refused(of(&[("0", -1, 16)]), &["impossible length"]);
    refused(of(&[("0", i64::MAX, 16)]), &["impossible length"]);
    refused(of(&[("0", i64::MAX / 8, 16)]), &["ends beyond the end"]);
    let keys = Pickle::new().bytes(b"](K\x00e").stop();
    let mut file = of(&[]);
    file.truncate(file.len() - Pickle::new().bytes(b"]").stop().len());
    refused([file, keys].concat(), &["key of a storage is no text"]);
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    refused([&magic[..], b"0N."].concat(), &["magic number"]);
    refused(magic.to_vec(), &["cut short"]);
}

#[test]
fn every_truncation_is_refused() {
    let scratch = Scratch::in_memory();
    for (sound, name) in [(sound_archive(), "a.bin"), (sound_legacy(), "b.pt")] {
        Checkpoint::open(&scratch.file(name, &sound)).unwrap();
        for length in 0..sound.len() {
            let path = scratch.file(name, &sound[..length]);
            let error = Checkpoint::open(&path).expect_err(&format!("cut to {length} bytes")).to_string();
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
        }
    }
}

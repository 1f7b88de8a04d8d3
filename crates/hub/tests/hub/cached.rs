//! A cache that was damaged, or holds what is no file; tokens that cannot be read.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quern_hub::{FileSource, PullOptions, Settings};
use quern_tensor_io::NoProgress;

use crate::fake_hub::{COMMIT, FakeHub};
use crate::lying::repo;
use crate::{Place, all_files};

const MODEL: &str = "model.safetensors";

fn root(place: &Place) -> PathBuf {
    place.settings.cache.join("models--o--n")
}

fn blob(place: &Place, file: &str) -> PathBuf {
    root(place).join("blobs").join(repo().files[file].etag())
}

/// Other bytes of the same length in a file's place, later than the file was checked.
fn damage(path: &Path) {
    std::thread::sleep(Duration::from_millis(20));
    let mut bytes = fs::read(path).unwrap();
    bytes[100] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success() && fs::symlink_metadata(path).unwrap().file_type().is_fifo());
}

#[test]
fn damage_in_the_cache_is_found_and_mended() {
    let server = FakeHub::new(repo());
    for file in [MODEL, "tokenizer.json"] {
        let place = Place::new(&server);
        place.pull("o/n").unwrap();
        damage(&blob(&place, file));
        // Without the network it is refused, by a pull and by what opens models.
        let mut offline = Place { settings: place.settings.clone(), dir: tempfile::tempdir().unwrap() };
        offline.settings.offline = true;
        let error = offline.pull("o/n").unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("damaged in the cache"), "{error}");
        let name = "o/n".parse().unwrap();
        assert_eq!(offline.hub().in_cache(&name, true), None);
        let mut gone = Place { settings: place.settings.clone(), dir: tempfile::tempdir().unwrap() };
        gone.settings.endpoint = "http://127.0.0.1:1".parse().unwrap();
        let error = gone.hub().locate(&name, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("damaged in the cache"), "{error}");
        // With it, that file alone comes again.
        let located = place.hub().locate(&name, &NoProgress).unwrap();
        assert!(located.notes.iter().any(|n| n.contains(file) && n.contains("again")), "{:?}", located.notes);
        assert_eq!(fs::read(blob(&place, file)).unwrap(), repo().files[file].bytes);
        assert!(offline.hub().in_cache(&name, true).is_some());
    }
}

#[test]
fn a_pull_hashes_what_others_put_there_once() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    place.pull("o/n").unwrap();
    let notes = root(&place).join(".quern/checked");
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 3);
    // As Python leaves it: without notes. Then damage is found by a pull, and not by what opens models.
    fs::remove_dir_all(root(&place).join(".quern")).unwrap();
    damage(&blob(&place, MODEL));
    assert!(place.hub().in_cache(&"o/n".parse().unwrap(), true).is_some());
    let pulled = place.pull("o/n").unwrap();
    let came: Vec<_> = pulled.files.iter().filter(|f| f.source != FileSource::Cache).collect();
    assert_eq!((came.len(), &*came[0].path), (1, MODEL));
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 3);
    // A note makes the file not to be read again: with the note of other bytes it is not noticed.
    let note = notes.join(repo().files[MODEL].etag());
    let before = fs::read(&note).unwrap();
    place.pull("o/n").unwrap();
    assert_eq!(fs::read(&note).unwrap(), before);
    // A note that was cut costs one more reading, no more.
    fs::write(&note, &before[..5]).unwrap();
    place.pull("o/n").unwrap();
    assert_eq!(fs::read(&note).unwrap(), before);
}

#[test]
fn into_a_folder_damage_in_the_cache_is_not_copied() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    place.pull("o/n").unwrap();
    damage(&blob(&place, MODEL));
    let output = place.path().join("out");
    let options = PullOptions { output: Some(output.clone()), ..PullOptions::default() };
    place.pull_with("o/n", &options).unwrap();
    assert_eq!(fs::read(output.join(MODEL)).unwrap(), repo().files[MODEL].bytes);
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let server = FakeHub::new(repo());
    let outside = tempfile::tempdir().unwrap();
    let mine = outside.path().join("mine");
    fs::write(&mine, "mine").unwrap();
    let etag = repo().files[MODEL].etag();
    let places = [
        format!("models--o--n/blobs/{etag}"),
        format!("models--o--n/blobs/{etag}.incomplete"),
        "models--o--n/refs/main".to_owned(),
        format!("models--o--n/.quern/checked/{etag}"),
        format!(".locks/models--o--n/{etag}.lock"),
        ".locks/models--o--n/.snapshots.lock".to_owned(),
    ];
    type Make<'a> = &'a dyn Fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("a pipe", &pipe),
        ("a folder", &|path| fs::create_dir(path).unwrap()),
        ("a symbolic link", &|path| symlink(&mine, path).unwrap()),
        ("a symbolic link", &|path| symlink("/dev/zero", path).unwrap()),
    ];
    for at in &places {
        for (kind, make) in kinds {
            let place = Place::new(&server);
            let path = place.settings.cache.join(at);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // A note is looked at where there is a blob.
            if at.contains("checked") {
                fs::create_dir_all(root(&place).join("blobs")).unwrap();
                fs::write(blob(&place, MODEL), &repo().files[MODEL].bytes).unwrap();
            }
            make(&path);
            let error = place.pull("o/n").unwrap_err().to_string();
            assert!(error.contains(kind) && error.contains("not a regular file"), "{at}: {error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(fs::read(&mine).unwrap(), b"mine");
            assert!(!fs::symlink_metadata(&path).unwrap().is_file());
        }
    }
}

#[test]
fn a_link_that_leads_out_of_the_cache_is_not_followed() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    let pulled = place.pull("o/n").unwrap();
    let outside = tempfile::tempdir().unwrap();
    let mine = outside.path().join(repo().files["config.json"].etag());
    fs::write(&mine, &repo().files["config.json"].bytes).unwrap();
    let config = pulled.folder.join("config.json");
    for target in [mine.clone(), PathBuf::from("/dev/zero")] {
        fs::remove_file(&config).unwrap();
        symlink(&target, &config).unwrap();
        let mut offline = Place { settings: place.settings.clone(), dir: tempfile::tempdir().unwrap() };
        offline.settings.offline = true;
        let error = offline.pull("o/n").unwrap_err().to_string();
        assert!(error.contains("leads out of the cache"), "{error}");
        assert_eq!(offline.hub().in_cache(&"o/n".parse().unwrap(), true), None);
    }
    place.pull("o/n").unwrap();
    assert_eq!(fs::read_link(&config).unwrap().parent(), Some(Path::new("../../blobs")));
    // The whole cache, or its blobs, may be on another disk.
    let moved = outside.path().join("blobs");
    fs::rename(root(&place).join("blobs"), &moved).unwrap();
    symlink(&moved, root(&place).join("blobs")).unwrap();
    assert!(place.hub().in_cache(&"o/n".parse().unwrap(), true).is_some());
}

#[test]
fn what_a_killed_pull_leaves_is_overwritten() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    let ours = root(&place).join(".quern");
    fs::create_dir_all(&ours).unwrap();
    symlink("/dev/null", ours.join("new")).unwrap();
    place.pull("o/n").unwrap();
    assert!(!ours.join("new").exists() && fs::symlink_metadata(ours.join("new")).is_err());
    assert_eq!(fs::read_to_string(root(&place).join("refs/main")).unwrap(), COMMIT);
    assert!(all_files(&place.settings.cache).iter().all(|f| !f.ends_with(".incomplete")));
}

fn token(home: &Path, more: &[(&str, &std::ffi::OsStr)]) -> Result<bool, String> {
    let get = |key: &str| match key {
        "HF_HOME" => Some(home.into()),
        _ => more.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()),
    };
    Settings::read(get).map(|s| s.token.is_some()).map_err(|e| e.to_string())
}

#[test]
fn a_token_that_cannot_be_read_is_said() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    assert_eq!(token(dir.path(), &[]), Ok(false));
    let contents: [(&[u8], &str); 5] = [
        (b"\xff\xfe", "not valid UTF-8"),
        (b"hf_one\nhf_two\n", "several lines"),
        (b"hf one", "spaces"),
        ("hf_\u{1b}[31m".as_bytes(), "other characters"),
        (&[b'x'; 70_000], "larger than the 64.0 KiB"),
    ];
    for (bytes, because) in contents {
        fs::write(&file, bytes).unwrap();
        let error = token(dir.path(), &[]).unwrap_err();
        assert!(error.contains(because) && error.contains(file.to_str().unwrap()), "{error}");
        assert!(!error.contains("hf_"), "{error}");
        // Who sends no token needs none that can be read.
        for key in ["HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_OFFLINE"] {
            assert_eq!(token(dir.path(), &[(key, "1".as_ref())]), Ok(false));
        }
    }
    for (bytes, there) in [(&b"hf_token\r\n"[..], true), (b" \n", false), (b"", false)] {
        fs::write(&file, bytes).unwrap();
        assert_eq!(token(dir.path(), &[]), Ok(there));
    }
    // Secrets are often links.
    fs::rename(&file, dir.path().join("secret")).unwrap();
    symlink("secret", &file).unwrap();
    assert_eq!(token(dir.path(), &[]), Ok(false));
    fs::remove_file(&file).unwrap();
    pipe(&file);
    assert!(token(dir.path(), &[]).unwrap_err().contains("a pipe"));
    fs::remove_file(&file).unwrap();
    symlink("/dev/zero", &file).unwrap();
    assert!(token(dir.path(), &[]).unwrap_err().contains("a device"));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(token(dir.path(), &[]).unwrap_err().contains("a folder"));
    fs::remove_dir(&file).unwrap();
    // Root may read everything.
    fs::write(&file, "hf_token").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    match File::open(&file) {
        Ok(_) => assert_eq!(token(dir.path(), &[]), Ok(true)),
        Err(_) => assert!(token(dir.path(), &[]).unwrap_err().contains("cannot be read: Permission denied")),
    }
    let bytes = std::ffi::OsStr::from_bytes(b"hf_\xff");
    assert!(token(dir.path(), &[("HF_TOKEN", bytes)]).unwrap_err().contains("HF_TOKEN: not a token"));
}

//! Disks that are full and runs of the same output at once: an output is absent or complete, and nothing else is left.

#![cfg(target_os = "linux")]

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::{command, failure, model};
use crate::kills::{Files, Made, Random, assert_same, complete, files, hidden, is_kept, jobs, start};

#[test]
fn an_unfinished_gptq_run_is_named_when_the_disk_is_full_and_goes_on_afterwards() {
    let jobs = jobs(&model());
    let job = jobs.iter().find(|job| job.name == "gptq").unwrap();
    let scratch = TempDir::new().unwrap();
    // Blocks of 512 bytes: packed modules fit, the whole checkpoint does not.
    let script =
        format!("trap '' XFSZ; ulimit -f 2000; exec {:?} --quiet \"$@\"", env!("CARGO_BIN_EXE_quern"));
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .args(&job.args)
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = failure(&output);
    for part in [
        "out/model.safetensors: ",
        "does not allow a file this large; finished layers are kept in ",
        ".out.gptq-unfinished: run the same command again to go on with them, or delete that folder",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("nothing was left behind"), "{said}");
    assert_eq!(hidden(scratch.path()), [".out.gptq-unfinished"]);
    complete(&job.args, scratch.path(), "2");
    assert_eq!(hidden(scratch.path()), [""; 0]);
}

#[test]
fn a_limit_on_the_size_of_files_leaves_nothing() {
    for job in jobs(&model()).iter().filter(|job| !job.resumes()) {
        let (whole, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        complete(&job.args, whole.path(), "2");
        let largest = files(whole.path()).values().map(Vec::len).max().unwrap();
        let script = format!(
            "trap '' XFSZ; ulimit -f {}; exec {:?} --quiet \"$@\"",
            largest / 1024,
            env!("CARGO_BIN_EXE_quern")
        );
        let output = Command::new("sh")
            .args(["-c", &script, "sh"])
            .args(&job.args)
            .current_dir(scratch.path())
            .output()
            .unwrap();
        let said = failure(&output);
        assert!(said.contains("does not allow a file this large"), "{}: {said}", job.name);
        assert_eq!(files(scratch.path()), Files::new(), "{}", job.name);
    }
}

/// On a disk of its own in memory, where the system allows that: it is filled while the command runs.
#[test]
fn a_disk_that_fills_up_meanwhile_leaves_nothing_half_written() {
    let probe = "mount -t tmpfs -o size=1m none /mnt";
    let allowed = Command::new("unshare").args(["-rm", "sh", "-c", probe]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system allows no disk in memory");
        return;
    }
    let mut random = Random::new();
    for job in &jobs(&model()) {
        let made = Made::of(job);
        for _ in 0..2 {
            let result = TempDir::new().unwrap();
            let delay = made.time.mul_f64(random.next()).as_secs_f64();
            // Commands ask for 64 MiB more than they need before they begin.
            let script = format!(
                "mount -t tmpfs -o size=96m none /mnt; cd /mnt; {:?} \"$@\" --threads 2 >/dev/null & pid=$!; sleep {delay}; \
                 cat /dev/zero >/mnt/fill 2>/dev/null; wait $pid; code=$?; rm -f fill; cp -r . {:?}; exit $code",
                env!("CARGO_BIN_EXE_quern"),
                result.path()
            );
            let output = Command::new("unshare")
                .args(["-rm", "sh", "-c", &script, "sh"])
                .args(&job.args)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!said.contains("panicked"), "{}: {said}", job.name);
            let left = hidden(result.path());
            let kept = left.iter().all(|name| is_kept(name));
            assert!(kept, "{}: {left:?}: {said}", job.name);
            if !output.status.success() {
                assert!(said.contains("free some space") || said.contains("free"), "{}: {said}", job.name);
                assert!(
                    left.is_empty() || left.iter().all(|name| said.contains(name.as_str())),
                    "{left:?}: {said}"
                );
            }
            made.check(result.path(), job.name);
        }
    }
}

#[test]
fn two_runs_of_one_output_give_one_of_both_whole() {
    for job in &jobs(&model()) {
        let made = Made::of(job);
        // The same, and another with the same name.
        for second in [&job.args, &job.older] {
            let scratch = TempDir::new().unwrap();
            let runs = [start(&job.args, scratch.path(), "1"), start(second, scratch.path(), "1")];
            let ended = runs.map(|run| run.wait_with_output().unwrap());
            let said: Vec<_> =
                ended.iter().map(|e| String::from_utf8_lossy(&e.stderr).into_owned()).collect();
            assert!(ended.iter().any(|e| e.status.success()), "{}: {said:?}", job.name);
            for (end, said) in ended.iter().zip(&said) {
                let refused = said.contains("another run is working on this output")
                    || said.contains("another run has replaced this output meanwhile")
                    || said.contains("unless another run wrote it meanwhile");
                assert!(end.status.success() || refused, "{}: {said}", job.name);
            }
            made.check(scratch.path(), job.name);
            let left = hidden(scratch.path());
            assert!(left.is_empty(), "{}: {left:?}", job.name);
            assert!(!files(scratch.path()).is_empty(), "{}", job.name);
        }
    }
}

/// Without --force exactly one of two runs gives the output its name.
#[test]
fn of_two_runs_that_may_not_replace_one_wins() {
    for job in jobs(&model()).iter().filter(|job| ["gguf", "nf4", "splits"].contains(&job.name)) {
        let scratch = TempDir::new().unwrap();
        let run = || {
            let mut command = command();
            command.args(&job.args).args(["--threads", "1"]).current_dir(scratch.path());
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let ended = [run(), run()].map(|run| run.wait_with_output().unwrap());
        let won = ended.iter().filter(|end| end.status.success()).count();
        let said: Vec<_> = ended.iter().map(|e| String::from_utf8_lossy(&e.stderr).into_owned()).collect();
        assert_eq!(won, 1, "{}: {said:?}", job.name);
        assert!(said.iter().any(|said| said.contains("already exists")), "{}: {said:?}", job.name);
        let alone = TempDir::new().unwrap();
        complete(&job.args, alone.path(), "2");
        assert_same(&files(scratch.path()), &files(alone.path()), job.name);
    }
}

//! No allocation larger than the file justifies: the hostile files and random damage once more, in a process
//! that may not have much memory. An allocator that cannot allocate ends the process, so that a count taken
//! on trust shows as a failure.

#[cfg(target_os = "linux")]
#[test]
fn hostile_files_are_refused_in_little_memory() {
    // Address space for the program, one thread and its arena; a trusted 32-bit count asks for more.
    const KILOBYTES: u32 = 160 * 1024;
    let binary = std::env::current_exe().unwrap();
    let run = |tests: &str| {
        let script = format!("ulimit -v {KILOBYTES} && exec \"$0\" --test-threads=1 --skip memory:: {tests}");
        let child = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(&binary)
            .env("MALLOC_ARENA_MAX", "1")
            .output();
        child.unwrap()
    };
    let output = run("hostile_ mutations::");
    let text = String::from_utf8_lossy(&output.stdout);
    let noise = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{noise}", output.status);
    assert!(
        text.contains("hostile_gguf::every_broken_rule_is_named ... ok"),
        "the tests did not run: {text}"
    );
    assert!(text.contains("hostile_pytorch::bombs ... ok"), "the tests did not run: {text}");
    assert!(text.contains("mutations::damaged_gguf_never_panics ... ok"), "the tests did not run: {text}");

    // The limit is one: a test that asks for a GiB does not survive it.
    let output = run("--ignored --exact memory_limit_probe");
    assert!(
        !output.status.success(),
        "the limit does not limit: {}",
        String::from_utf8_lossy(&output.stdout)
    );
}

# Shortcuts. `just` lists them.

default:
    @just --list

# Run everything that CI runs.
check:
    bash .ci/run

# Quantize, convert, measure and run the small model in fixtures/.
demo:
    cargo run --release -- demo

# Run all tests.
test:
    cargo test --workspace

# Write docs/cli.md anew from the definitions of the command line.
docs:
    QUERN_WRITE_DOCS=1 cargo test -p quern --bin quern docs_cli_md

# Record the terminal session in the README anew.
session:
    cargo build --release
    python3 tools/make_terminal_svg.py target/release/quern docs/quern.svg

# Make what is published, in dist/: program, archive, wheel, Debian package, bill of materials, checksums.
dist:
    bash tools/dist.sh

# Build a wheel, install it in a new environment and run the demo from it, as CI does.
check-wheel:
    bash tools/check_wheel.sh

# Check licences, doubled crates, sources and known weaknesses of what quern is made of (needs cargo-deny).
deny:
    bash tools/check_dependencies.sh

# Benchmark kernels and encoders (on a quiet machine).
bench:
    cargo bench -p quern-compute -p quern-quantize

# Compile the CUDA kernels anew, with a table of their registers (needs Python 3.11; fetches NVRTC once).
ptx:
    python3 tools/build_kernels.py

# Compile the CUDA kernels anew and compare them with those in the repository.
ptx-check:
    python3 tools/build_kernels.py --check

# Run the tests of `unsafe` code, and of what it relies on, under Miri (needs nightly with the component miri; minutes).
miri:
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-deterministic-floats" cargo +nightly miri test -p quern-tensor-io --lib -- decode:: element:: layout:: scheme:: strided:: map::ranges:: gguf::
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-deterministic-floats" cargo +nightly miri test -p quern-compute --no-default-features --lib -- activations:: aligned:: attention:: block:: dot:: executor::cpu:: fgemm:: float:: pool::

# Run the tests of CUDA kernels, and of models on GPUs, on this machine's NVIDIA card; they fail if there is none.
test-cuda:
    QUERN_TEST_CUDA=1 cargo test -p quern-compute
    QUERN_TEST_CUDA=1 cargo test -p quern-run --test gpu

# Run the tests of the CUDA layer under compute-sanitizer, all but those whose faults are meant.
sanitize-cuda:
    cargo test -p quern-compute --test cuda --no-run
    QUERN_TEST_CUDA=1 compute-sanitizer --report-api-errors no --error-exitcode 1 cargo test -p quern-compute --test cuda -- --skip a_fault --skip a_driver

# Give a million damaged inputs to every reader (see crates/faults).
faults runs="1000000" jobs="2":
    cargo run --release -p quern-faults -- --runs {{runs}} --jobs {{jobs}} --keep target/faults

# Give libFuzzer's inputs to one reader for so many seconds, under the address sanitizer (needs nightly Rust and cargo-fuzz).
fuzz target seconds="3600":
    cargo run --release -p quern-faults -- --corpus fuzz/corpus
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}} -timeout=10 -rss_limit_mb=2048 -max_len=1048576

# Make the fixtures that need Python packages only; the header of each script says which.
fixtures:
    python3 tools/make_decode_golden.py
    python3 tools/make_encode_golden.py
    python3 tools/make_tiny_models.py
    python3 tools/make_config_golden.py fixtures/golden/config.json
    python3 tools/make_chat_golden.py

# Compare with llama.cpp's tools: `just compare /path/to/llama.cpp/build/bin /tmp/llama-1b`.
compare bin model:
    bash tools/compare_llama_cpp.sh {{bin}} {{model}}

# Record what llama.cpp's converter makes of the tiny models (needs transformers 4.57.6): `just conversions /path/to/llama.cpp`.
conversions llama_cpp:
    python3 tools/make_conversion_golden.py {{llama_cpp}}

# Check conversions from Hugging Face to GGUF and back against transformers 5 and llama.cpp's golden files.
check-conversions:
    cargo build --release
    python3 tools/check_conversions.py target/release/quern

# Check a page of `quern inspect --report` in headless Chromium (needs Chromium, and pip install websockets).
check-report page:
    python3 tools/check_report.py {{page}}

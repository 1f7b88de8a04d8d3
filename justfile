# Habits. `just` lists them.

default:
    @just --list

# Everything CI checks.
check:
    bash .ci/run

# The two commands of the README.
demo:
    cargo run --release -- demo

test:
    cargo test --workspace

# Kernel and encoder benchmarks (quiet machine!).
bench:
    cargo bench -p quern-compute -p quern-quantize

# Fixtures that scripts make; each script's header says what it needs.
fixtures:
    python3 tools/make_decode_golden.py
    python3 tools/make_encode_golden.py
    python3 tools/make_tiny_models.py
    python3 tools/make_chat_golden.py

# Side by side with llama.cpp's tools: `just compare /path/to/llama.cpp/build/bin /tmp/llama-1b`.
compare bin model:
    bash tools/compare_llama_cpp.sh {{bin}} {{model}}

# What llama.cpp's converter makes of the tiny models (wants transformers 4.57.6): `just conversions /path/to/llama.cpp`.
conversions llama_cpp:
    python3 tools/make_conversion_golden.py {{llama_cpp}}

# Hugging Face to GGUF and back, judged with transformers (5) and llama.cpp's golden files.
check-conversions:
    cargo build --release
    python3 tools/check_conversions.py target/release/quern

"""Runs a GGUF file in llama.cpp and compares with a folder of fixtures/architectures: used by the other scripts.

Needs the bindings of llama-cpp-python, installed, or its source tree in PYTHONPATH and the folder of libllama in
LLAMA_CPP_LIB_PATH.
"""

import ctypes
import json

import numpy
import safetensors.numpy


class Model:
    def __init__(self, path):
        import llama_cpp

        self.lib = llama_cpp
        # it logs to standard error
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp does not load it")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.width = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def logits(self, ids):
        """One row per id; the cache in float32, no flash attention."""
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 128
        params.type_k = params.type_v = self.lib.GGML_TYPE_F32
        params.flash_attn_type = 0
        params.n_threads = params.n_threads_batch = 1
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("llama.cpp makes no context")
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
        if self.lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama.cpp cannot decode")
        rows = self.lib.llama_get_logits(context)
        result = numpy.ctypeslib.as_array(rows, (len(ids), self.width)).copy()
        self.lib.llama_batch_free(batch)
        self.lib.llama_free(context)
        return result

    def tokenize(self, text, special):
        """Ids as tokenizers makes them: special tokens in the text are recognised, BOS and EOS only if asked for."""
        data = text.encode()
        room = (self.lib.llama_token * (len(data) + 8))()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), room, len(room), special, True)
        return list(room[:count])


def compare(directory, path):
    """How the logits' largest difference relates to their deviation, and the texts whose ids differ."""
    model = Model(path)
    expected = safetensors.numpy.load_file(directory / "logits.safetensors")
    worst = []
    for i in range(2):
        ids, logits = expected[f"prompt{i}.input_ids"], expected[f"prompt{i}.logits"]
        worst.append(float(abs(model.logits(ids.tolist())[:, :logits.shape[1]] - logits).max() / logits.std()))
    texts = []
    for case in json.loads((directory / "tokenize.json").read_text()):
        if [model.tokenize(case["text"], s) for s in (False, True)] != [case["ids"], case["ids_with_special"]]:
            texts.append(case["text"])
    return worst, texts


def report(directory, path):
    try:
        worst, texts = compare(directory, path)
    except RuntimeError as error:
        return str(error)
    return f"logits off by {worst[0]:.1e} {worst[1]:.1e}  other ids: {len(texts)} {texts if texts else ''}"

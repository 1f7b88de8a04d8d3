"""Makes fixtures/architectures/NAME/: a tiny random model of each architecture with what transformers computes from it.

    python3 tools/make_tiny_models.py [NAME…]

Made with torch 2.15, transformers 5.24, tokenizers 0.23, sentencepiece 0.2.3, safetensors 0.8, numpy 2.4, on a CPU.
Every run writes the same bytes. Each folder holds

- model.safetensors (float16; gemma2 bfloat16, as Gemma is published), config.json and, for some, generation_config.json, as save_pretrained writes them; the
  config.json of some is in the older style that most repositories have (rope_theta, rope_scaling, torch_dtype);
- the tokenizer's files (tiny_tokenizers.py);
- logits.safetensors: transformers in float32 on these weights, eager attention: promptN.input_ids, promptN.logits
  (one row for each of the last 8 positions), promptN.greedy_ids (16 tokens); the prompts' texts are a JSON list in the metadata;
- tokenize.json: texts, their ids by the tokenizers library from tokenizer.json ("ids": add_special_tokens=False,
  "ids_with_special": True; by tiktoken where there is none). Where transformers' AutoTokenizer makes other ids of the same folder, they are stored
  as "transformers_ids" and "transformers_ids_with_special".

No weight or setting is left at a value that hides a mistake: norms are not one, biases not zero, epsilons not the usual
ones, logits far from uniform.
"""

import argparse
import json
import pathlib
import zlib

import numpy
import safetensors.torch
import tokenizers
import torch
import transformers

import tiny_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures/architectures"
GREEDY = 16
# Positions of a prompt, its last, whose logits are stored.
ROWS = 8
PROMPTS = ["It was a dark night, and the old captain", "I don't: naïve №42\n\t🙂"]
SHORT = ["It was a dark night", "I don't: №42\n\t🙂"]
# longer than the original context of phi3-longrope, whose rope factors depend on the length
LONG = "It was a dark night, and the old captain said: in 1999 we'll be 12345, or so."

# for folders of less than 120 KiB
BRIEF = {"prompts": ["It was a", "I'd 🙂4"], "tokenizer": {"merges": 24}}
BRIEF_SPM = {"prompts": BRIEF["prompts"], "tokenizer": {"size": 328}}

TEXTS = [
    "",
    "Hello, world!",
    "  leading and trailing  ",
    "It's what we'll say: I'D, THEY'VE, don't 'em",
    "naïve café — “quotes”, Straße, İstanbul, ﬁ",
    "e\u0301a\u0308A\u030a \u1100\u1161\u11a8",
    "東京は日本の首都です。",
    "🙂👩‍👩‍👧‍👦🇩🇪 ok",
    "a  b   c    d          e",
    "\n\nline\n\n\n\tindent\t\tend \n ",
    "12345 3.14159 1,234,567 x2024y 007 ½٣",
    "def f(x):\n    return x**2  # why?\n\t\tif x != 0: {}[];",
    "hello\r\nworld\r\n\r\n",
    "\u00a0nbsp\u2003em\u200bzero",
    "<0x41> ▁under ▁▁ Ġ </s",
    "a<s>b</s> c<|endoftext|> d <|im_start|>user\nHi<|im_end|>\n",
    " {special} a{special}b {special}{special}  c",
]

SILU = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-3}
GQA = SILU | {"num_key_value_heads": 2}
LAYER_NORM = {k: v for k, v in SILU.items() if k != "rms_norm_eps"} | {"layer_norm_eps": 2e-3}
QWEN = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"}
TEXT_END = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|endoftext|>"}
NEOX = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 256, "layer_norm_eps": 2e-3} | TEXT_END
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
          "bias": False, "alibi": False, "layer_norm_epsilon": 2e-3} | TEXT_END
PHI3 = SILU | {"eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>", "bos_token_id": "<s>"}
STABLELM = LAYER_NORM | TEXT_END
SEED = {"bos_token_id": "<seed:bos>", "eos_token_id": "<seed:eos>", "pad_token_id": "<seed:pad>"}
SMOL = {"bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|im_end|>"}
GRANITE = {k: "<|end_of_text|>" for k in ["bos_token_id", "eos_token_id", "pad_token_id"]}
OLMO = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|endoftext|>", "pad_token_id": "<|pad|>"}
HARMONY = {"bos_token_id": "<|startoftext|>", "eos_token_id": "<|return|>", "pad_token_id": "<|endoftext|>"}
EXAONE = {"bos_token_id": "[BOS]", "eos_token_id": "[|endofturn|]", "pad_token_id": "[PAD]"}
COHERE = LAYER_NORM | {"bos_token_id": "<BOS_TOKEN>", "eos_token_id": "<|END_OF_TURN_TOKEN|>", "pad_token_id": "<PAD>"}
# A delta net three layers of four.
DELTA = {"num_hidden_layers": 4, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4}
# latent attention, whose heads have more numbers in queries and keys than in values
LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 16}
LAYER = SILU | {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
LATENT_MOE = LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                       "first_k_dense_replace": 1, "tie_word_embeddings": True}
DEEPSEEK = LATENT_MOE | {"bos_token_id": tiny_tokenizers.BOS, "eos_token_id": tiny_tokenizers.EOS}
INDEXER = {"index_topk": 6, "index_n_heads": 8, "index_head_dim": 16}
LLAMA4 = {"bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|eot|>", "pad_token_id": "<|finetune_right_pad|>"}
GLM4 = {"bos_token_id": None, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"}
HUNYUAN = {"bos_token_id": "<|startoftext|>", "eos_token_id": "<|endoftext|>", "pad_token_id": "<|pad|>",
           "eod_token_id": "<|endoftext|>"}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
# The smallest towers that the classes of multimodal releases accept.
SIGLIP = {"vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 16,
                            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}}
PIXTRAL = {"vision_config": {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
                             "num_attention_heads": 2, "head_dim": 4, "image_size": 28, "patch_size": 14}}
QWEN2_VIT = {"vision_config": {"depth": 1, "embed_dim": 8, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
                               "patch_size": 4}}
QWEN25_VIT = {"vision_config": {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
                                "out_hidden_size": 32, "fullatt_block_indexes": [0]}}
LLAMA4_VIT = {"vision_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                "vision_output_dim": 8, "image_size": 8, "patch_size": 4, "projector_input_dim": 8,
                                "projector_output_dim": 8}}
GLM4_VIT = {"vision_config": {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
                              "out_hidden_size": 32, "image_size": 28}}
QWEN3_VIT = {"vision_config": {"depth": 2, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
                               "out_hidden_size": 32, "num_position_embeddings": 4, "deepstack_visual_indexes": [0, 1]}}

SHORTEST = {"prompts": ["It was a dark night"]}
NEMOTRON_MOE = {"hidden_size": 32, "layers_block_type": ["linear_attention", "moe", "full_attention"],
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
                "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "conv_kernel": 4,
                "max_position_embeddings": 256, "layer_norm_epsilon": 2e-3, "bos_token_id": "<|begin_of_text|>",
                "n_routed_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
                "topk_group": 1, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 48,
                "norm_topk_prob": True, "routed_scaling_factor": 2.5,
                "eos_token_id": "<|end_of_text|>", "pad_token_id": "<|reserved_special_token_0|>"}
MOE = {"tie_word_embeddings": True, "moe_intermediate_size": 32, "num_experts": 3, "num_experts_per_tok": 2}
DEEPSEEK_MOE = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2,
                "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 1.7,
                "norm_topk_prob": True, "intermediate_size": 64}
DOTS = {"bos_token_id": None, "eos_token_id": "<|endofresponse|>", "pad_token_id": "<|endoftext|>"}
GLM = {"eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>", "num_mtp_layers": 0}
MINIMAX = {"bos_token_id": "]~!b[", "eos_token_id": "[e~["}
GRANITE_MOE = (GQA | GRANITE | {
    "intermediate_size": 32, "num_hidden_layers": 1, "num_local_experts": 3, "num_experts_per_tok": 2,
    "tie_word_embeddings": True, "attention_multiplier": 0.3, "embedding_multiplier": 6.0, "residual_multiplier": 0.4, "logits_scaling": 3.0}
    | {"rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}})
GRANITE_HYBRID = {k: v for k, v in GRANITE_MOE.items() if k != "rope_parameters"} | OLMO | {
    "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
    "mamba_n_groups": 1, "mamba_expand": 2}


def rope(theta=10000.0, kind="default", **more):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind} | more}


def internlm3(config):
    """The keys of the class that InternLM 3 brings with it."""
    config |= {"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3", "bias": config.pop("mlp_bias"), "qkv_bias": config.pop("attention_bias"),
               "auto_map": {"AutoModelForCausalLM": "modeling_internlm3.InternLM3ForCausalLM"}}
    return dict(sorted(config.items()))


def internlm2(config):
    """The keys of the class that InternLM 2 brings with it."""
    config |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": config.pop("attention_bias"),
               "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"}}
    config.pop("mlp_bias")
    config.pop("head_dim")
    return dict(sorted(config.items()))


def internlm2_tensors(tensors, config):
    """Llama's tensors under its names: of each key head its query heads' rows, its own, and those of its values."""
    names = {"model.embed_tokens": "model.tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
             "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3"}
    made, heads = {}, config["num_key_value_heads"]
    for name, tensor in tensors.items():
        if ".q_proj" in name:
            parts = [tensors[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
            parts = [part.reshape(heads, -1, part.shape[-1]) for part in parts]
            made[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(parts, 1).flatten(0, 1).contiguous()
        elif ".k_proj" not in name and ".v_proj" not in name:
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            made[name] = tensor
    return made


def exaone(config):
    """The class of the published files, in place of Llama's, which transformers saves."""
    return config | {"architectures": ["ExaoneForCausalLM"]}


def hunyuan_moe(config):
    """Numbers for each layer, as Tencent publishes them."""
    layers = config["num_hidden_layers"]
    config |= {"moe_topk": [config["moe_topk"]] * layers, "moe_intermediate_size": [config["intermediate_size"]] * layers,
               "num_shared_expert": [1] * layers, "use_qk_norm": True, "use_cla": False, "norm_topk_prob": True,
               "moe_layer_num_skipped": 0}
    return dict(sorted(config.items()))


def kimi_k2(config):
    """Moonshot's name for DeepSeek V3, and the programs that it publishes with the model."""
    module = "modeling_deepseek.DeepseekV3ForCausalLM"
    config |= {"model_type": "kimi_k2", "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config",
                                                      "AutoModel": "modeling_deepseek.DeepseekV3Model",
                                                      "AutoModelForCausalLM": module}}
    return dict(sorted(config.items()))


def minicpm(config):
    """Granite's constants under MiniCPM's keys: what is added is multiplied by scale_depth / sqrt(layers), and logits are
    divided by hidden_size / dim_model_base."""
    layers = config["num_hidden_layers"]
    config |= {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm",
               "auto_map": {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
               "scale_emb": int(config.pop("embedding_multiplier")),
               "scale_depth": config.pop("residual_multiplier") * layers**0.5,
               "dim_model_base": int(config["hidden_size"] / config.pop("logits_scaling"))}
    config.pop("attention_multiplier")
    config.pop("mlp_bias")
    return dict(sorted(config.items()))


# Name: class, tokenizer family, its options, config. Token names in the config become ids, "vocab" says how many
# rows the embedding has more than the tokenizer has tokens, "old" that config.json is written in the older style.
MODELS = {
    "llama": ("Llama", "llama", {}, GQA | rope(50000.0)),
    "llama3": ("Llama", "llama3", {"old": True, "generation": SAMPLING, "eos_list": ["<|end_of_text|>", "<|eot_id|>"]},
               GQA | {"tie_word_embeddings": True, "bos_token_id": "<|begin_of_text|>"}
               | rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=32)),
    # fine-tuned models often come without tokenizer.model
    "llama-yarn": ("Llama", "llama", {"tokenizer": {"model_file": False}},
                   SILU | {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True}
                   | rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama-linear": ("Llama", "llama", BRIEF_SPM | {"old": True}, GQA | {"intermediate_size": 32} | rope(10000.0, "linear", factor=2.5)),
    "mistral": ("Mistral", "mistral", {"old": True}, GQA | {"sliding_window": 12, "head_dim": 16} | rope(1000000.0)),
    "qwen2": ("Qwen2", "qwen2", {"old": True, "vocab": 9, "generation": SAMPLING | {"top_k": 20,
                                 "repetition_penalty": 1.05}}, GQA | QWEN | rope(1000000.0)),
    "qwen3": ("Qwen3", "qwen3", {"vocab": 5}, GQA | QWEN | {"head_dim": 16, "tie_word_embeddings": True}
              | rope(1000000.0)),
    "gemma": ("Gemma", "gemma", {"old": True}, GQA | {"num_key_value_heads": 1, "head_dim": 16} | rope()),
    "gemma2": ("Gemma2", "gemma", {"old": True, "dtype": torch.bfloat16},
               GQA | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12, "final_logit_softcapping": 8.0,
                      "attn_logit_softcapping": 5.0} | rope()),
    "gemma3": ("Gemma3", "gemma", BRIEF_SPM,
               GQA | {"num_hidden_layers": 7, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8,
                      "query_pre_attn_scalar": 8, "sliding_window": 4, "rope_parameters": {
                          "full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
                          "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}}),
    # as the smaller models: layers of two kinds, vectors of each token in each layer, the last two layers with the keys
    # and values of the two in front of them
    "gemma4": ("Gemma4", "gemma4", {"prompts": BRIEF["prompts"] , "tokenizer": {"size": 330, "model_file": False}},
               SILU | {"num_hidden_layers": 4, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
                       "global_head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 8.0,
                       "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 330, "num_kv_shared_layers": 2,
                       "use_double_wide_mlp": True, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    # as the larger: keys that are values, with other numbers of heads
    "gemma4-dense": ("Gemma4", "gemma4", {"prompts": BRIEF["prompts"], "tokenizer": {"size": 330, "model_file": False}},
                     SILU | {"num_hidden_layers": 3, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                             "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 4,
                             "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                             "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    # as the mixture: experts beside the network of each block
    "gemma4-moe": ("Gemma4", "gemma4", SHORTEST | {"tokenizer": {"size": 330, "model_file": False}},
                   SILU | {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                           "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 4,
                           "hidden_size_per_layer_input": 0, "layer_types": ["sliding_attention", "full_attention"],
                           "enable_moe_block": True, "num_experts": 3, "top_k_experts": 2, "moe_intermediate_size": 16}),
    # four residual streams, the last two layers with the keys and values of the two in front of them; the first network
    # has few active values
    "gemma3n": ("Gemma3n", "gemma", {"prompts": BRIEF["prompts"], "tokenizer": {"size": 330}},
                SILU | {"num_hidden_layers": 4, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8,
                        "sliding_window": 4, "final_logit_softcapping": 8.0, "hidden_size_per_layer_input": 16,
                        "vocab_size_per_layer_input": 330, "num_kv_shared_layers": 2, "laurel_rank": 16,
                        "activation_sparsity_pattern": [0.8, 0.0, 0.0, 0.0],
                        "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "phi": ("Phi", "phi", {"vocab": 3},
            {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 256, "layer_norm_eps": 2e-3} | TEXT_END | rope(partial_rotary_factor=0.75)),
    "phi3": ("Phi3", "phi3", {"vocab": 10}, PHI3 | {"num_key_value_heads": 2, "sliding_window": 12,
             "original_max_position_embeddings": 256} | rope()),
    "phi3-longrope": ("Phi3", "phi3", {"old": True, "vocab": 2, "prompts": [PROMPTS[0], LONG]},
                      PHI3 | {"num_key_value_heads": 4, "original_max_position_embeddings": 40, "sliding_window": 256}
                      | rope(10000.0, "longrope", short_factor=[1.0, 1.05, 1.1, 1.2],
                             long_factor=[1.1, 1.5, 2.75, 6.5], original_max_position_embeddings=40)),
    "opt": ("OPT", "opt", {},
            {"hidden_size": 32, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 128, "word_embed_proj_dim": 32, "bos_token_id": "</s>",
             "eos_token_id": "</s>", "pad_token_id": "<pad>"}),
    "opt-350m": ("OPT", "opt", {"tokenizer": {"files": "vocab.json"}},
                 {"hidden_size": 32, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "max_position_embeddings": 128, "word_embed_proj_dim": 16, "do_layer_norm_before": False,
                  "bos_token_id": "</s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}),
    "gpt2": ("GPT2", "gpt2", {}, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
             "layer_norm_epsilon": 2e-3} | TEXT_END),
    "gpt_neox": ("GPTNeoX", "gpt_neox", {"vocab": 7}, NEOX | {"use_parallel_residual": True, "rotary_pct": 0.25}),
    "gpt_neox-sequential": ("GPTNeoX", "gpt_neox", BRIEF | {"old": True}, NEOX | {"intermediate_size": 48, "use_parallel_residual": False, "rotary_pct": 0.5}),
    "mixtral": ("Mixtral", "mistral", {"old": True},
                GQA | {"intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2} | rope(1000000.0)),
    "qwen3_moe": ("Qwen3Moe", "qwen3", {},
                  GQA | QWEN | {"head_dim": 16, "moe_intermediate_size": 32, "num_experts": 4,
                                "num_experts_per_tok": 2, "norm_topk_prob": True} | rope(1000000.0)),
    "starcoder2": ("Starcoder2", "starcoder2", {},
                   {k: v for k, v in SILU.items() if k != "rms_norm_eps"} | TEXT_END | {
                       "use_bias": True, "sliding_window": 4096, "num_key_value_heads": 1, "norm_epsilon": 2e-3}
                   | rope(100000.0)),
    "stablelm": ("StableLm", "stablelm2", {"old": True},
                 STABLELM | {"use_qkv_bias": True, "num_key_value_heads": 4} | rope(partial_rotary_factor=0.5)),
    "stablelm-parallel": ("StableLm", "stablelm2", {},
                          STABLELM | {"num_key_value_heads": 2, "qk_layernorm": True, "use_parallel_residual": True}
                          | rope(partial_rotary_factor=0.5)),
    # falcon2-11B has another rope base than the rest of its family
    "falcon": ("Falcon", "falcon", {}, FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
               | rope(500042.0)),
    "falcon-7b": ("Falcon", "falcon", {"old": True}, FALCON | {"multi_query": True, "parallel_attn": True}),
    # as published: biases on queries, keys and values alone
    "seed_oss": ("SeedOss", "seed_oss", {"old": True, "vocab": 6}, GQA | SEED | {"head_dim": 16} | rope(10000000.0)),
    "seed_oss-biases": ("SeedOss", "seed_oss", {},
                        SILU | SEED | {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True,
                                       "attention_bias": False, "attention_out_bias": True, "mlp_bias": True}
                        | rope(10000.0, "linear", factor=2.5)),
    # the fourth layer does not rotate
    "smollm3": ("SmolLM3", "smollm3", {"old": True, "vocab": 4},
                GQA | SMOL | {"num_hidden_layers": 4, "intermediate_size": 48} | rope(2000000.0)),
    # constants as published, but for attention's: 1 / head_dim
    "granite": ("Granite", "granite", {"old": True, "vocab": 3},
                GQA | GRANITE | {"tie_word_embeddings": True, "attention_multiplier": 0.125, "embedding_multiplier": 12.0,
                                 "residual_multiplier": 0.22, "logits_scaling": 2.5} | rope(10000000.0)),
    "olmo2": ("Olmo2", "olmo2", {"old": True, "vocab": 5}, GQA | OLMO | rope(500000.0)),
    # three layers of four under a window, the fourth with a scaled rope
    "olmo3": ("Olmo3", "olmo2", BRIEF,
              SILU | OLMO | {"num_hidden_layers": 4, "intermediate_size": 32, "sliding_window": 4, "rope_parameters": {
                  "full_attention": {"rope_theta": 500000.0, "rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0,
                                     "beta_slow": 2.0, "attention_factor": 1.25,
                                     "original_max_position_embeddings": 16},
                  "sliding_attention": {"rope_theta": 100000.0, "rope_type": "default"}}}),
    "arcee": ("Arcee", "smollm3", {"old": True, "vocab": 3},
              GQA | SMOL | {"intermediate_size": 96}
              | rope(10000.0, "yarn", factor=4.0, beta_fast=16.0, beta_slow=2.0, original_max_position_embeddings=16)),
    # three layers of four under a window; the fourth does not rotate
    "exaone4": ("Exaone4", "exaone4", {"old": True, "vocab": 2, "prompts": BRIEF["prompts"]},
                GQA | EXAONE | {"num_hidden_layers": 4, "intermediate_size": 32, "sliding_window": 4, "head_dim": 12}
                | rope(1000000.0, "llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=2.0,
                       original_max_position_embeddings=16)),
    "cohere2": ("Cohere2", "cohere", {"old": True},
                COHERE | {"num_hidden_layers": 4, "intermediate_size": 48, "num_key_value_heads": 2,
                          "sliding_window": 12, "logit_scale": 0.3} | rope(50000.0)),
    "ernie4_5": ("Ernie4_5", "ernie", {"old": True}, GQA | {"head_dim": 16, "tie_word_embeddings": True} | rope(500000.0)),
    # llama.cpp's converter writes this epsilon whatever config.json says
    # one network, then mixtures, with a gate of what attention gathers; the last layer sees everything and does not rotate
    "afmoe": ("Afmoe", "llama3", {"vocab": 2, "tokenizer": {"merges": 24}} | SHORTEST,
              SILU | {"num_hidden_layers": 4, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
                      "sliding_window": 6, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                      "num_shared_experts": 1, "num_dense_layers": 1, "route_scale": 1.7, "mup_enabled": True,
                      "tie_word_embeddings": True, "bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|end_of_text|>",
                      "pad_token_id": "<|reserved_special_token_0|>"} | rope(50000.0)),
    # layer norms without weights; queries, keys and values are limited
    "olmo": ("Olmo", "gpt_neox", {"old": True, "vocab": 3} | BRIEF,
             {k: v for k, v in GQA.items() if k != "rms_norm_eps"} | TEXT_END | {"intermediate_size": 48, "clip_qkv": 0.9, "tie_word_embeddings": True}
             | rope(50000.0)),
    "olmoe": ("Olmoe", "gpt_neox", BRIEF | {"vocab": 2},
              GQA | TEXT_END | {"intermediate_size": 32, "rms_norm_eps": 1e-5, "num_experts": 4, "num_experts_per_tok": 3}
              | rope(30000.0)),
    # every other layer under a window
    "gpt_oss": ("GptOss", "gpt_oss", {"old": True, "vocab": 3, "tokenizer": {"merges": 24},
                                      "prompts": [PROMPTS[0], "№42"], "margin": 0.05},
                GQA | HARMONY | {"head_dim": 12, "intermediate_size": 32, "num_local_experts": 3, "num_experts_per_tok": 2,
                                 "sliding_window": 12}
                | rope(150000.0, "yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                       original_max_position_embeddings=16)),
    # gated convolutions over three positions around attention; the network's width is two thirds of what is said
    "lfm2": ("Lfm2", "llama3", {"vocab": 3, "prompts": SHORT},
             {k: v for k, v in GQA.items() if k != "rms_norm_eps"}
             | {"num_hidden_layers": 3, "intermediate_size": 96, "block_multiple_of": 16, "norm_eps": 2e-3,
                "layer_types": ["conv", "full_attention", "conv"], "bos_token_id": "<|begin_of_text|>",
                "eos_token_id": "<|end_of_text|>", "pad_token_id": "<|reserved_special_token_0|>"} | rope(1000000.0)),
    # the same with experts in all layers but the first, chosen by a sigmoid and a bias
    "lfm2_moe": ("Lfm2Moe", "llama3", {"vocab": 3, "prompts": SHORT},
                 {k: v for k, v in GQA.items() if k != "rms_norm_eps"}
                 | {"num_hidden_layers": 3, "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 3,
                    "num_experts_per_tok": 2, "num_dense_layers": 1, "norm_eps": 1e-5, "routed_scaling_factor": 1.0,
                    "layer_types": ["conv", "full_attention", "conv"], "bos_token_id": "<|begin_of_text|>",
                    "eos_token_id": "<|end_of_text|>", "pad_token_id": "<|reserved_special_token_0|>"} | rope(1000000.0)),
    # two value heads for each key head
    "qwen3_5": ("Qwen3_5", "qwen35", {"vocab": 4, "seed": 2, "class": "Qwen3_5ForCausalLM", "config": "Qwen3_5TextConfig",
                                      "dtype": torch.bfloat16, "prompts": SHORT},
                GQA | QWEN | DELTA | {"intermediate_size": 32}
                | rope(10000000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True)),
    # the projections of a delta net joined by key head; experts in every layer
    "qwen3_next": ("Qwen3Next", "qwen3", {"vocab": 4, "dtype": torch.bfloat16, "tokenizer": {"merges": 40}} | SHORTEST,
                   GQA | QWEN | DELTA | {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
                                         "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 3,
                                         "shared_expert_intermediate_size": 32, "num_experts_per_tok": 2,
                                         "tie_word_embeddings": True}
                   | rope(10000000.0, partial_rotary_factor=0.5)),
    # latent attention in layers with one feed-forward network each
    "youtu": ("Youtu", "smollm3", {"vocab": 3} | SHORTEST,
              {k: v for k, v in SILU.items() if k != "rms_norm_eps"} | SMOL | LATENT
              | {"num_key_value_heads": 4, "rms_norm_eps": 1e-3, "q_lora_rank": 24, "intermediate_size": 48,
                 "pad_token_id": None}
              | rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=16.0, beta_slow=2.0,
                     mscale=0.7, mscale_all_dim=0.7)),
    # groups ordered by their largest score; the first layer has one network
    "deepseek_v2": ("DeepseekV2", "deepseek_llm", {"old": True, "tokenizer": {"merges": 40}} | SHORTEST,
                    LAYER | DEEPSEEK | {"q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 2,
                                        "topk_group": 1, "norm_topk_prob": False, "routed_scaling_factor": 1.5,
                                        "n_shared_experts": 2, "aux_loss_alpha": 0.001, "scoring_func": "softmax"}
                    | rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=24.0,
                           beta_slow=2.0, mscale=0.707, mscale_all_dim=0.707)),
    "deepseek_v3": ("DeepseekV3", "deepseek_v3", {"old": True, "tokenizer": {"merges": 40}} | SHORTEST,
                    LAYER | DEEPSEEK | {"q_lora_rank": 24, "n_group": 2, "topk_group": 1, "norm_topk_prob": True,
                                        "routed_scaling_factor": 2.5, "n_shared_experts": 1, "scoring_func": "sigmoid",
                                        "topk_method": "noaux_tc", "num_nextn_predict_layers": 0}
                    | rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=24.0,
                           beta_slow=2.0, mscale=1.0, mscale_all_dim=1.0)),
    # with a vocabulary of the tiktoken library
    "kimi_k2": ("DeepseekV3", "kimi_k2", {"old": True, "rewrite": kimi_k2, "prompts": ["It was a"]},
                LAYER | LATENT_MOE | {"bos_token_id": "[BOS]", "eos_token_id": "[EOS]", "pad_token_id": "[PAD]", "q_lora_rank": 24,
                                      "num_hidden_layers": 1, "first_k_dense_replace": 0, "n_routed_experts": 3, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                                      "routed_scaling_factor": 2.827, "n_shared_experts": 1, "scoring_func": "sigmoid",
                                      "topk_method": "noaux_tc", "num_nextn_predict_layers": 0}
                | rope(50000.0, "yarn", factor=32.0, original_max_position_embeddings=16, beta_fast=1.0, beta_slow=1.0,
                       mscale=1.0, mscale_all_dim=1.0)),
    # no scaled rope, all layers but the first mixtures whatever is said
    "glm4_moe_lite": ("Glm4MoeLite", "glm4_moe", {"tokenizer": {"merges": 40}, "seed": 15} | SHORTEST,
                      LAYER | GLM | {"bos_token_id": None} | {k: v for k, v in LATENT_MOE.items() if k != "first_k_dense_replace"}
                      | {"q_lora_rank": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                         "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.8, "n_shared_experts": 1}
                      | rope(1000000.0)),
    # each token reads 6 positions at most, which an indexer chooses; the second has a layer that reads what the one before
    # chose
    "deepseek_v32": ("DeepseekV32", "deepseek_v3", {"old": True, "tokenizer": {"merges": 24}, "indexed": 0.005, "prompts": ["It was a dark"]},
                     LAYER | DEEPSEEK | INDEXER | {
                         "q_lora_rank": 24, "n_routed_experts": 3, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                         "routed_scaling_factor": 2.5, "n_shared_experts": 1, "scoring_func": "sigmoid",
                         "topk_method": "noaux_tc", "num_nextn_predict_layers": 0}
                     | rope(10000.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=24.0,
                            beta_slow=2.0, mscale=1.0, mscale_all_dim=1.0)),
    "glm_moe_dsa": ("GlmMoeDsa", "glm4_moe", {"tokenizer": {"merges": 24}, "indexed": 0.005, "prompts": ["It was a dark"]},
                    LAYER | GLM | INDEXER | {"bos_token_id": None} | LATENT_MOE | {
                        "num_hidden_layers": 3, "intermediate_size": 32, "first_k_dense_replace": 2, "n_routed_experts": 3,
                        "moe_intermediate_size": 16, "qk_nope_head_dim": 16, "q_lora_rank": 24, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                        "routed_scaling_factor": 1.8, "n_shared_experts": 1, "scoring_func": "sigmoid",
                        "indexer_types": ["full", "shared", "full"], "num_nextn_predict_layers": 0}
                    | rope(1000000.0)),
    # the constants that llama.cpp has; rope in halves
    "minicpm3": ("MiniCPM3", "llama", {} | SHORTEST,
                 LAYER | LATENT | {"q_lora_rank": 24, "tie_word_embeddings": True, "scale_emb": 12, "scale_depth": 1.4,
                                   "dim_model_base": 256, "hidden_act": "silu"}
                 | rope(10000.0, "longrope", short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[1.0, 1.5, 3.0, 6.0],
                        original_max_position_embeddings=256)),
    # mixtures of experts: one prompt and an embedding that is the head, to be small; the choice of experts survives
    # weights rounded to 8 bits with these seeds
    "qwen2_moe": ("Qwen2Moe", "qwen2", {"vocab": 4, "seed": 39} | SHORTEST,
                  GQA | QWEN | MOE | {"shared_expert_intermediate_size": 64} | rope(1000000.0)),
    # one network in the first layer, then sigmoids with a bias of the choice, groups, a factor, and shared experts
    "dots1": ("Dots1", "dots1", {"vocab": 3, "seed": 29} | SHORTEST,
              GQA | DOTS | {"head_dim": 16, "tie_word_embeddings": True} | DEEPSEEK_MOE | rope(1000000.0)),
    "glm4_moe": ("Glm4Moe", "glm4_moe", {"old": True, "vocab": 2, "seed": 48} | SHORTEST,
                 GQA | GLM | {"head_dim": 16, "attention_bias": True, "use_qk_norm": True, "tie_word_embeddings": True} | DEEPSEEK_MOE
                 | rope(1000000.0, partial_rotary_factor=0.5)),
    "ernie4_5_moe": ("Ernie4_5_Moe", "ernie", {"old": True, "seed": 35} | SHORTEST,
                     GQA | {"tie_word_embeddings": True, "intermediate_size": 64, "moe_intermediate_size": 32,
                            "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1} | rope(500000.0)),
    # LongRoPE with the scale that the factors give, as llama.cpp's converter computes it
    "phi3_moe": ("Phimoe", "phi3", {"old": True, "vocab": 2, "seed": 4} | SHORTEST,
                 PHI3 | {"num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 3,
                         "attention_bias": True, "lm_head_bias": True, "original_max_position_embeddings": 32}
                 | rope(10000.0, "longrope", original_max_position_embeddings=32, short_mscale=1.264911064, long_mscale=1.264911064,
                        short_factor=[1.0, 1.05, 1.1, 1.2], long_factor=[1.1, 1.5, 2.75, 6.5])),
    "minimax_m2": ("MiniMaxM2", "minimax_m2", {"vocab": 3, "seed": 2} | SHORTEST,
                   GQA | MINIMAX | {"intermediate_size": 32, "head_dim": 16, "num_local_experts": 4,
                                    "num_experts_per_tok": 2, "tie_word_embeddings": True}
                   | rope(5000000.0, partial_rotary_factor=0.5)),
    # the experts of a layer in one tensor
    "granitemoe": ("GraniteMoe", "granite", {"old": True, "vocab": 3} | BRIEF, GRANITE_MOE),
    "granitemoeshared": ("GraniteMoeShared", "granite", {"old": True, "vocab": 3} | BRIEF,
                         GRANITE_MOE | {"shared_intermediate_size": 64}),
    # Mamba-2, then attention without positions; one network in each layer, gate and up projection joined
    "granitehybrid": ("GraniteMoeHybrid", "olmo2", {"old": True, "vocab": 10, "dtype": torch.bfloat16, "tokenizer": {"merges": 80}} | SHORTEST,
                      GRANITE_HYBRID | {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 48,
                                        "shared_intermediate_size": 48}),
    # attention with positions in all layers, in the same class
    "granitehybrid-rope": ("GraniteMoeHybrid", "olmo2", {"old": True, "vocab": 3, "dtype": torch.bfloat16, "tokenizer": {"merges": 24}}
                           | SHORTEST,
                           GRANITE_HYBRID | {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 48,
                                                       "shared_intermediate_size": 48, "position_embedding_type": "rope",
                                                       "layer_types": ["full_attention"] * 2} | rope(50000.0)),
    # the same with experts, all of a layer in one tensor, and one that all tokens use
    "granitehybrid_moe": ("GraniteMoeHybrid", "olmo2", {"old": True, "vocab": 6, "dtype": torch.bfloat16, "tokenizer": {"merges": 36}}
                          | SHORTEST,
                          GRANITE_HYBRID | {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 16,
                                            "shared_intermediate_size": 32}),
    "qwen3_5_moe": ("Qwen3_5Moe", "qwen35", BRIEF | {"vocab": 4, "seed": 8, "class": "Qwen3_5MoeForCausalLM", "dtype": torch.bfloat16,
                                                     "config": "Qwen3_5MoeTextConfig"},
                    {k: v for k, v in GQA.items() if k != "intermediate_size"} | QWEN | DELTA | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
                                          "num_experts": 3, "num_experts_per_tok": 2}
                    | rope(10000000.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True)),
    # each layer is Mamba-2, a plain network or attention without positions
    "nemotron_h": ("NemotronH", "llama3", {"old": True, "vocab": 2, "prompts": SHORT, "dtype": torch.bfloat16},
                   {"hidden_size": 32, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp", "linear_attention"],
                    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
                    "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "conv_kernel": 4,
                    "max_position_embeddings": 256, "layer_norm_epsilon": 2e-3, "bos_token_id": "<|begin_of_text|>",
                    "eos_token_id": "<|end_of_text|>", "pad_token_id": "<|reserved_special_token_0|>"}),
    # attention and Mamba-2 side by side, and a multiplier of each layer's outputs: powers of two, so that the weights that
    # llama.cpp's converter multiplies are the same numbers
    "falcon_h1": ("FalconH1", "llama3", {"vocab": 6, "old": True, "dtype": torch.bfloat16, "tokenizer": {"merges": 36}} | SHORTEST,
                  LAYER | {"num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 12, "intermediate_size": 32, "mamba_d_ssm": 64,
                           "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_rms_norm": True,
                           "mamba_norm_before_gate": False, "lm_head_multiplier": 0.5, "embedding_multiplier": 4.0,
                           "mlp_multipliers": [2.0, 0.5], "key_multiplier": 0.25, "attention_out_multiplier": 0.5,
                           "attention_in_multiplier": 2.0, "ssm_multipliers": [0.5, 0.25, 4.0, 2.0, 0.125],
                           "ssm_in_multiplier": 2.0, "ssm_out_multiplier": 0.25, "bos_token_id": "<|begin_of_text|>",
                           "eos_token_id": "<|end_of_text|>", "pad_token_id": "<|reserved_special_token_0|>"} | rope(1000000.0)),
    "mamba2": ("Mamba2", "gpt_neox", {"old": True, "vocab": 11, "dtype": torch.bfloat16, "tokenizer": {"merges": 60}} | SHORTEST,
               {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8,
                "n_groups": 2, "conv_kernel": 4, "layer_norm_epsilon": 2e-3, "tie_word_embeddings": True,
                "pad_token_id": "<|endoftext|>"} | TEXT_END),
    # as nemotron_h, with mixtures in the network's place: experts without a gate, chosen by sigmoids and a bias
    "nemotron_h_moe": ("NemotronH", "llama3", {"old": True, "vocab": 6, "dtype": torch.bfloat16, "tokenizer": {"merges": 36}}
                       | SHORTEST,
                       NEMOTRON_MOE),
    # the same with experts in a narrower space
    "nemotron_h_super": ("NemotronH", "llama3", {"old": True, "vocab": 10, "dtype": torch.bfloat16, "tokenizer": {"merges": 24}}
                         | SHORTEST, NEMOTRON_MOE | {"moe_latent_size": 16, "n_routed_experts": 4, "ssm_state_size": 4, "head_dim": 8, "intermediate_size": 32,
                                                     "moe_shared_expert_intermediate_size": 32}),
    "glm4": ("Glm4", "glm4", BRIEF | {"vocab": 3},
             GQA | GLM4 | {"intermediate_size": 32, "head_dim": 8, "tie_word_embeddings": True, "attention_bias": True, "partial_rotary_factor": 0.5} | rope(partial_rotary_factor=0.5)),
    "glm": ("Glm", "glm4", BRIEF | {"old": True, "vocab": 3, "eos_list": ["<|endoftext|>", "<|user|>", "<|observation|>"]},
            GQA | GLM4 | {"intermediate_size": 32, "attention_bias": True, "tie_word_embeddings": True, "head_dim": 8, "partial_rotary_factor": 0.5}
            | rope(50000.0, partial_rotary_factor=0.5)),
    "cohere": ("Cohere", "cohere", BRIEF | {"old": True},
               COHERE | {"intermediate_size": 32, "num_key_value_heads": 2, "logit_scale": 0.3, "use_qk_norm": True} | rope(75000.0)),
    "nemotron": ("Nemotron", "llama", BRIEF_SPM | {"old": True},
                 {k: v for k, v in SILU.items() if k != "rms_norm_eps"}
                 | {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "norm_eps": 2e-3, "tie_word_embeddings": True, "bos_token_id": "<s>", "eos_token_id": "</s>"}
                 | rope(20000.0, partial_rotary_factor=0.5)),
    "helium": ("Helium", "llama", BRIEF_SPM,
               SILU | {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": None}
               | {"intermediate_size": 32, "num_key_value_heads": 4, "head_dim": 8, "mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}
               | rope(30000.0)),
    # transformers computes it as Llama; the published files are written for a class that they bring with them
    "internlm3": ("Llama", "llama", BRIEF_SPM | {"old": True, "rewrite": internlm3},
                  GQA | {"intermediate_size": 32, "head_dim": 8, "tie_word_embeddings": True} | rope(500000.0, "dynamic", factor=6.0)),
    # the same, with other names and queries, keys and values of each key head in one matrix
    "internlm2": ("Llama", "llama", BRIEF_SPM | {"old": True, "rewrite": internlm2, "rename": internlm2_tensors},
                  GQA | {"intermediate_size": 32, "num_hidden_layers": 1, "bos_token_id": "<s>", "eos_token_id": "</s>"}
                  | rope(1000000.0, "dynamic", factor=2.0)),
    # transformers has no such class: Granite computes the same
    "minicpm": ("Granite", "llama", BRIEF_SPM | {"old": True, "rewrite": minicpm},
                GQA | {"intermediate_size": 32, "tie_word_embeddings": True, "attention_multiplier": 8**-0.5,
                       "embedding_multiplier": 12.0, "residual_multiplier": 0.9, "logits_scaling": 2.0, "bos_token_id": "<s>", "eos_token_id": "</s>"}
                | rope(10000.0)),
    "apertus": ("Apertus", "llama3", BRIEF | {},
                GQA | {"intermediate_size": 32, "tie_word_embeddings": True, "bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|eot_id|>",
                       "pad_token_id": "<|end_of_text|>"}
                | rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                       original_max_position_embeddings=32)),
    "hunyuan": ("HunYuanDenseV1", "hunyuan", BRIEF | {"old": True},
                GQA | HUNYUAN | {"max_position_embeddings": 32768, "intermediate_size": 32, "head_dim": 8, "tie_word_embeddings": True,
                                 "attention_bias": True}
                | rope(10000.0, "dynamic", alpha=50.0, factor=1.0)),
    # the lists and flags of the class that published files bring with them
    "hunyuan_moe": ("HunYuanMoEV1", "hunyuan_moe", BRIEF | {"old": True, "rewrite": hunyuan_moe},
                    GQA | {"bos_token_id": "<|startoftext|>", "eos_token_id": "<|eos|>", "pad_token_id": "<|pad|>",
                           "sep_token_id": "<|extra_0|>", "eod_token_id": "<|endoftext|>", "max_position_embeddings": 32768, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 8,
                           "num_experts": 4, "moe_topk": 2, "tie_word_embeddings": True}
                    | rope(10000.0, "dynamic", alpha=1000.0, factor=1.0)),
    # mixtures in every layer; the width of a network that no layer has is in published files
    "solar_open": ("SolarOpen", "solar_open", BRIEF | {"vocab": 2},
                   GQA | {"head_dim": 8, "tie_word_embeddings": True, "partial_rotary_factor": 1.0, "first_k_dense_replace": 0,
                          "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
                          "routed_scaling_factor": 1.7, "n_group": 1, "topk_group": 1, "bos_token_id": "<|startoftext|>",
                          "eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"}
                   | rope(1000000.0, "yarn", factor=2.0, original_max_position_embeddings=16, partial_rotary_factor=1.0)),
    # a window on the second layer and, of published models, each that is not the first of four
    "cwm": ("Cwm", "llama3", BRIEF | {"vocab": 3},
            GQA | {"intermediate_size": 32, "head_dim": 8, "sliding_window": 4, "bos_token_id": "<|begin_of_text|>",
                   "eos_token_id": "<|eot_id|>", "tie_word_embeddings": True}
            | rope(1000000.0, "llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)),
    "jais2": ("Jais2", "jais2", BRIEF | {"vocab": 3},
              LAYER_NORM | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
                            "bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|end_of_text|>"}
              | rope(500000.0)),
    "hyperclovax": ("HyperCLOVAX", "smollm3", BRIEF | {"vocab": 3},
                    GQA | SMOL | {"intermediate_size": 32, "head_dim": 8, "tie_word_embeddings": True, "attention_multiplier": 0.3,
                                  "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 0.4}
                    | rope(100000.0)),
    "vaultgemma": ("VaultGemma", "gemma", BRIEF_SPM | {"dtype": torch.bfloat16, "tokenizer": {"size": 328, "model_file": False}},
                   GQA | {"intermediate_size": 32, "head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 4,
                          "final_logit_softcapping": 8.0, "attn_logit_softcapping": 5.0} | rope()),
    "flex_olmo": ("FlexOlmo", "olmo2", BRIEF | {"vocab": 3},
                  GQA | OLMO | {"intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 3,
                                "tie_word_embeddings": True} | rope(500000.0)),
    # the second layer sees everything and does not rotate
    "exaone_moe": ("ExaoneMoe", "exaone_moe", BRIEF | {"vocab": 2},
                   GQA | {"intermediate_size": 32, "head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
                          "tie_word_embeddings": True, "sliding_window": 4, "routed_scaling_factor": 1.7,
                          "layer_types": ["sliding_attention", "full_attention"], "bos_token_id": "[BOS]",
                          "eos_token_id": "<|endofturn|>", "pad_token_id": "[PAD]"} | rope(1000000.0)),
    # transformers computes it as Llama; names of tensors and the class are those of published files
    "exaone": ("Llama", "exaone", BRIEF | {"vocab": 3, "config": "ExaoneConfig", "rewrite": exaone},
               GQA | EXAONE | {"intermediate_size": 32, "head_dim": 8, "tie_word_embeddings": True}
               | rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=2.0,
                      original_max_position_embeddings=16)),
    # the first layer sees everything and does not rotate
    "granite_swa": ("GraniteSWA", "granite", BRIEF | {"vocab": 3},
                    GQA | GRANITE | {"intermediate_size": 32, "sliding_window": 4, "layer_rope_theta": [0.0, 30000.0],
                                     "attention_multiplier": 0.3, "embedding_multiplier": 6.0, "residual_multiplier": 0.4,
                                     "logits_scaling": 3.0} | rope(30000.0)),
    # Multimodal releases: "around" is the configuration around the text model's; the logits are those of text alone.
    "gemma3-images": ("Gemma3", "gemma", BRIEF_SPM | {"around": SIGLIP | {"mm_tokens_per_image": 1}},
                      GQA | {"num_hidden_layers": 6, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8,
                             "query_pre_attn_scalar": 8, "sliding_window": 4, "rope_parameters": {
                                 "full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
                                 "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}}),
    "mistral3": ("Mistral3", "mistral", BRIEF_SPM | {"around": PIXTRAL | {"tie_word_embeddings": False}},
                 GQA | {"model_type": "mistral", "intermediate_size": 32, "head_dim": 12, "sliding_window": None} | rope(1000000.0)),
    # positions beyond the original context of 16 scale the queries
    "ministral3": ("Mistral3", "mistral", {"around": PIXTRAL | {"tie_word_embeddings": True}},
                   GQA | {"model_type": "ministral3", "head_dim": 16, "pad_token_id": None, "sliding_window": None, "tie_word_embeddings": True}
                   | rope(1000000.0, "yarn", factor=16.0, original_max_position_embeddings=16, beta_fast=24.0,
                          beta_slow=2.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3)),
    "ministral3-text": ("Ministral3", "mistral", BRIEF_SPM,
                        GQA | {"intermediate_size": 32, "head_dim": 12, "sliding_window": None, "pad_token_id": None}
                        | rope(1000000.0, "yarn", factor=4.0, original_max_position_embeddings=4, beta_fast=24.0,
                               beta_slow=2.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)),
    # the published files have the text model's keys beside the tower's
    "qwen2_vl": ("Qwen2VL", "qwen2", {"old": True, "vocab": 9, "around": QWEN2_VIT}, GQA | QWEN
                 | rope(1000000.0, mrope_section=[1, 1, 2])),
    "qwen2_5_vl": ("Qwen2_5_VL", "qwen2", {"around": QWEN25_VIT | {"tie_word_embeddings": True}},
                   GQA | QWEN | rope(1000000.0, mrope_section=[1, 1, 2])),
    "glm4v": ("Glm4v", "glm4", BRIEF | {"vocab": 3, "around": GLM4_VIT | {"tie_word_embeddings": True}},
              GQA | GLM4 | {"intermediate_size": 32} | rope(partial_rotary_factor=0.5, mrope_section=[1, 1, 0])),
    "qwen3_vl": ("Qwen3VL", "qwen3", BRIEF | {"vocab": 5, "around": QWEN3_VIT | {"tie_word_embeddings": True}},
                 GQA | QWEN | {"intermediate_size": 32, "head_dim": 16} | rope(5000000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)),
    # chunks and growth of queries much smaller than the published ones, so that these texts reach them
    "llama4": ("Llama4", "llama4", BRIEF | {"prompts": BRIEF["prompts"][1:], "around": LLAMA4_VIT | {"tie_word_embeddings": True}},
               SILU | LLAMA4 | {"num_hidden_layers": 4, "intermediate_size": 16, "intermediate_size_mlp": 32, "num_key_value_heads": 1,
                                "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
                                "attention_chunk_size": 4, "floor_scale": 3, "attn_scale": 0.4, "tie_word_embeddings": True}
               | rope(50000.0, "llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0,
                      original_max_position_embeddings=32)),
    # all experts of a layer in one tensor, transposed
    "qwen3_vl_moe": ("Qwen3VLMoe", "qwen3", {"vocab": 5, "transposed": True, "tokenizer": {"merges": 24}, "around": {"tie_word_embeddings": True, "vision_config":
                      QWEN3_VIT["vision_config"] | {"depth": 1, "deepstack_visual_indexes": [0], "spatial_merge_size": 1}}} | SHORTEST,
                     GQA | QWEN | MOE | {"head_dim": 16, "num_hidden_layers": 1, "moe_intermediate_size": 64}
                     | rope(5000000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)),
}

# The rules for random weights, by the parameter's name; the rest is a matrix with this deviation.
STD = 0.25


def fill(name, shape, gemma):
    """Random numbers of the kind the parameter holds in a trained model."""
    draw = numpy.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(numpy.float32)
    if name.endswith("bias"):
        draw *= 0.2
    elif name.endswith("A_log"):
        draw = draw * 0.5 - 1.5
    elif "conv" in name and len(shape) == 3:
        draw *= 0.5
    elif len(shape) == 1:
        draw = draw * 0.3 + (0 if gemma else 1)
    elif "embed" in name or "wte" in name or "wpe" in name:
        draw *= 0.4
    else:
        draw *= STD
    return torch.from_numpy(draw)


def old_style(config):
    """config.json as transformers 4 wrote it: the same numbers under the older keys."""
    config = dict(config)
    if "text_config" in config:
        # the text model's keys at the root, as before transformers 4.52
        inner = config.pop("text_config")
        config = {k: v for k, v in inner.items() if k != "model_type"} | config
        config["rope_parameters"] = dict(config["rope_parameters"])
        config["rope_scaling"] = {"type": "mrope", "mrope_section": config["rope_parameters"].pop("mrope_section")}
    parameters = dict(config.pop("rope_parameters", {}))
    theta, kind = parameters.pop("rope_theta", None), parameters.pop("rope_type", "default")
    partial = parameters.pop("partial_rotary_factor", None)
    if config["model_type"] == "gpt_neox":
        config |= {"rotary_emb_base": int(theta), "rotary_pct": partial}
        config.pop("partial_rotary_factor", None)
    elif theta is not None:
        config["rope_theta"] = theta
        if partial is not None:
            config["partial_rotary_factor"] = partial
    if config["model_type"] == "phi3":
        # written so by Microsoft; the original context is a key of its own
        parameters.pop("original_max_position_embeddings", None)
        config["rope_scaling"] = {"type": kind} | parameters
    elif kind != "default":
        key = "type" if kind == "linear" else "rope_type"
        config["rope_scaling"] = {key: kind} | parameters
    elif theta is not None and "rope_scaling" not in config:
        config["rope_scaling"] = None
    if config["model_type"] == "nemotron_h":
        # as published without experts
        kinds = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
        pattern = "".join(kinds[kind] for kind in config.pop("layers_block_type"))
        config |= {"hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern),
                   "rms_norm_eps": config["layer_norm_epsilon"]}
        ours = ("moe_", "mtp_", "n_routed", "n_shared", "num_experts", "num_nextn", "topk_group", "routed_", "norm_topk",
                "output_router", "time_step_limit")
        # those with experts keep what they say of them
        if "E" not in pattern:
            config = {k: v for k, v in config.items() if not k.startswith(ours) and k != "n_group"}
        else:
            config.pop("time_step_limit")
    kinds = config.get("layer_types")
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if config["model_type"] == "granitemoehybrid":
        # as published
        names = {"linear_attention": "mamba", "full_attention": "attention"}
        config |= {"layer_types": [names[kind] for kind in kinds], "position_embedding_type": config["position_embedding_type"] or "nope"}
        config.pop("time_step_limit")
    if config["model_type"] == "falcon" and config["multi_query"] and not config["new_decoder_architecture"]:
        # transformers writes the number of query heads, for one shared head; repositories leave it out
        config.pop("num_kv_heads")
    if config["model_type"] == "gemma2":
        config["hidden_act"] = config["hidden_activation"]
    if config["model_type"] == "gemma":
        config.pop("use_bidirectional_attention", None)
    if config["model_type"] in ("mamba2", "falcon_h1"):
        # as Python writes it
        config["time_step_limit"] = [0.0, float("inf")]
    config["transformers_version"] = "4.44.2"
    return dict(sorted(config.items()))


class Tie(Exception):
    """Two greedy tokens are so near that the order of sums would choose between them, or two experts so near that
    rounding to 8 bits would."""


def check_routing(model, least):
    """The experts that gpt-oss's routers choose for the tokens of the tests are clearly apart from the next."""
    scores = []
    routers = [layer.mlp.router for layer in model.model.layers]
    hooks = [router.register_forward_hook(lambda _m, _i, out: scores.append(out[0])) for router in routers]
    with torch.no_grad():
        model(torch.tensor([[20 + i * 7 % 200 for i in range(24)]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    used = model.config.num_experts_per_tok
    for rows in scores:
        ordered = rows.sort(-1, descending=True).values
        if (ordered[:, used - 1] - ordered[:, used]).min() < least * rows.std():
            raise Tie


def check_indexers(model, raw, prompts, least):
    """The positions that indexers choose for the prompts' tokens, and for those that follow, are clearly apart from the
    next."""
    margins, original = [], torch.Tensor.topk

    def topk(scores, count, **options):
        if scores.dim() == 3 and count == model.config.index_topk:
            for row in scores.flatten(0, 1):
                seen = row[row > -1e30].sort(descending=True).values
                if len(seen) > count:
                    margins.append(((seen[count - 1] - seen[count]) / seen.std()).item())
        return original(scores, count, **options)

    torch.Tensor.topk = topk
    try:
        for prompt in prompts:
            ids = torch.tensor([raw.encode(prompt).ids])
            with torch.no_grad():
                for _ in range(GREEDY):
                    ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, True)], 1)
    finally:
        torch.Tensor.topk = original
    if not margins or min(margins) < least:
        raise Tie


def text_model(model):
    """The model to compute text with: transformers 5.24's multimodal class of Llama 4 fails without an image."""
    return model.language_model if type(model).__name__ == "Llama4ForConditionalGeneration" else model


def prompts_of(model, tokenizer, prompts):
    """Ids, logits and the greedy continuation of each prompt."""
    tensors = {}
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0]
            longer = ids
            for _ in range(GREEDY):
                longer = torch.cat([longer, model(longer, use_cache=False).logits[:, -1].argmax(-1, True)], 1)
        assert torch.isfinite(logits).all() and logits.std() > 0.5, (logits.std(), prompt)
        with torch.no_grad():
            top = model(longer, use_cache=False).logits[0, ids.shape[1] - 1:-1].topk(2).values
        if (top[:, 0] - top[:, 1]).min() < 1e-3:
            raise Tie
        tensors |= {f"prompt{i}.input_ids": ids[0], f"prompt{i}.logits": logits[-ROWS:].contiguous(),
                    f"prompt{i}.greedy_ids": longer[0, ids.shape[1]:].contiguous()}
    return tensors


def tokenize(folder, raw):
    """The cases of tokenize.json."""
    ranked = isinstance(raw, tiny_tokenizers.Ranked)
    auto = raw if ranked else transformers.AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    special = config.get("eos_token")
    longest = max((t["content"] for t in config["added_tokens_decoder"].values()), key=len)
    cases = []
    for text in TEXTS + [f"x{longest} y", f"{longest}{longest}z"]:
        text = text.replace("{special}", special)
        case = {"text": text, "ids": raw.encode(text, add_special_tokens=False).ids,
                "ids_with_special": raw.encode(text).ids}
        seen = {"transformers_ids": auto.encode(text, add_special_tokens=False),
                "transformers_ids_with_special": auto.encode(text)}
        if not ranked and list(seen.values()) != [case["ids"], case["ids_with_special"]]:
            case |= seen
        cases.append(case)
    return cases


def dump(path, data, **options):
    path.write_text(json.dumps(data, **options) + "\n", encoding="utf-8")


def transpose_experts(path):
    """Stacks of experts as they are released: transformers 5 saves what it has in memory, and loads both."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name, tensor in tensors.items():
        if ".mlp.experts." in name:
            tensors[name] = tensor.transpose(1, 2).contiguous()
    safetensors.torch.save_file(tensors, path, metadata)


def make(name, seed=None):
    """Writes the folder, with the first seed that gives clear greedy tokens, and returns its size."""
    seed = MODELS[name][2].get("seed", 0) if seed is None else seed
    try:
        return make_with(name, seed)
    except Tie:
        return make(name, seed + 1)


def make_with(name, seed):
    class_name, family, options, settings = MODELS[name]
    dtype = options.get("dtype", torch.float16)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != "gguf.json":  # make_conversion_golden.py's
            path.unlink()
    tokens = tiny_tokenizers.write(family, folder, **options.get("tokenizer", {}))
    if options.get("tokenizer", {}).get("files"):
        # without tokenizer.json its reading by transformers is all there is
        raw = transformers.AutoTokenizer.from_pretrained(folder)._tokenizer
    elif family in tiny_tokenizers.RANKED:
        raw = tiny_tokenizers.Ranked(family, folder)
    else:
        raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = {k: raw.token_to_id(v) if isinstance(v, str) and k.endswith("_token_id") else v
                for k, v in settings.items()}
    prefix = class_name + "Text" if class_name in ("Gemma3", "Gemma3n", "Gemma4") else class_name
    vocab_size = tokens + options.get("vocab", 0)
    if "around" in options:
        ids = {k: settings[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if k in settings}
        config = getattr(transformers, class_name + "Config")(
            text_config=settings | {"vocab_size": vocab_size}, attn_implementation="eager", **options["around"], **ids)
    else:
        config = getattr(transformers, options.get("config", prefix + "Config"))(
            vocab_size=vocab_size, attn_implementation="eager", **settings)
    if "eos_list" in options:
        config.eos_token_id = [raw.token_to_id(t) for t in options["eos_list"]]
    ending = "ForConditionalGeneration" if "around" in options else "ForCausalLM"
    head = {"GPT2": "GPT2LMHeadModel"}.get(class_name, class_name + ending)
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        biases = [one for one in model.named_buffers() if one[0].endswith(("e_score_correction_bias", "expert_bias"))]
        for parameter, value in [*model.named_parameters(), *biases]:
            gemma = "gemma" in name and name[:7] not in ("gemma4", "gemma4-", "gemma3n")
            minus_one = gemma or (name.startswith(("qwen3_5", "qwen3_next")) and "linear_attn" not in parameter)
            draw = fill(f"{seed} {name} {parameter}", value.shape, minus_one)
            value.copy_(draw.to(dtype).float())
        for number, (buffer, value) in enumerate(model.named_buffers()):
            if buffer.endswith("layer_scalar"):
                value.fill_(0.75 + 0.125 * (number % 4))
    if "generation" in options:
        model.generation_config = transformers.GenerationConfig(
            **options["generation"], bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id)
    expected = text_model(model)(torch.arange(20)[None], use_cache=False).logits
    model.to(dtype).save_pretrained(folder)
    if "generation" not in options:
        (folder / "generation_config.json").unlink(missing_ok=True)
    if options.get("transposed"):
        transpose_experts(folder / "model.safetensors")
    if options.get("old"):
        dump(folder / "config.json", old_style(json.loads((folder / "config.json").read_text())), indent=2)
    # what other programs will load from the folder, not this model
    auto = transformers.AutoModelForImageTextToText if "around" in options else transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    for (parameter, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), parameter
    if "margin" in options:
        check_routing(loaded, options["margin"])
    prompts = options.get("prompts", PROMPTS)
    if "indexed" in options:
        check_indexers(loaded, raw, prompts, options["indexed"])
    loaded = text_model(loaded)
    tensors = prompts_of(loaded, raw, prompts)
    # the older style of config.json means the same
    assert torch.equal(loaded(torch.arange(20)[None], use_cache=False).logits, expected)
    safetensors.torch.save_file(tensors, folder / "logits.safetensors",
                                {"prompts": json.dumps(prompts)})
    cases = tokenize(folder, raw)
    (folder / "tokenize.json").write_text(
        "[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n", encoding="utf-8")
    if "rewrite" in options:
        dump(folder / "config.json", options["rewrite"](json.loads((folder / "config.json").read_text())), indent=2)
    if "rename" in options:
        path = folder / "model.safetensors"
        with safetensors.safe_open(path, "pt") as file:
            metadata, old = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        safetensors.torch.save_file(options["rename"](old, config.to_dict()), path, metadata)
    differ = [c["text"] for c in cases if "transformers_ids" in c]
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name:22} {size / 1024:6.1f} KiB  logits' deviation {tensors['prompt0.logits'].std():.2f}"
          f"  prompts {[len(tensors[f'prompt{i}.input_ids']) for i in range(len(prompts))]}"
          f"  AutoTokenizer differs: {len(differ)}")
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or MODELS
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    total = sum(make(name) for name in names)
    print(f"{total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

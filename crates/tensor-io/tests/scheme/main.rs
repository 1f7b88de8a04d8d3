//! Quantized Hugging Face checkpoints: what others wrote decodes to what others read, and what is broken is
//! refused.

mod peers;

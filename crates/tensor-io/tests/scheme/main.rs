//! Quantized Hugging Face checkpoints: what others wrote decodes to what others read, every layout decodes to
//! the numbers that went in, and what is broken is refused.

mod beside;
mod build;
mod compressed;
mod exact;
mod forms;
mod hostile;
mod labels;
mod peers;
mod releases;
mod repack;
mod repacked;
mod scaled;
mod stacked;

//! The Hugging Face Hub and its cache: names, downloads, headers by range request.

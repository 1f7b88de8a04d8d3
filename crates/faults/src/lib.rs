#![doc = include_str!("../README.md")]

pub mod allocation;
pub mod exercise;
pub mod hub;
pub mod mutation;
pub mod reader;
pub mod round_trip;
pub mod seed;

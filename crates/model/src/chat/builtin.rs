//! Chat templates that come with quern, for models whose files have none.

/// A form that many models were trained on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Builtin {
    /// The name it is known by.
    pub name: &'static str,
    pub source: &'static str,
    /// What ends a turn, where it is not the end of text.
    pub end_of_turn: Option<&'static str>,
}

/// All of them.
pub(super) const BUILTINS: [Builtin; 6] = [
    Builtin {
        name: "chatml",
        source: include_str!("templates/chatml.jinja"),
        end_of_turn: Some("<|im_end|>"),
    },
    Builtin {
        name: "llama3",
        source: include_str!("templates/llama3.jinja"),
        end_of_turn: Some("<|eot_id|>"),
    },
    Builtin {
        name: "gemma",
        source: include_str!("templates/gemma.jinja"),
        end_of_turn: Some("<end_of_turn>"),
    },
    Builtin { name: "mistral", source: include_str!("templates/mistral.jinja"), end_of_turn: None },
    Builtin { name: "phi3", source: include_str!("templates/phi3.jinja"), end_of_turn: Some("<|end|>") },
    Builtin { name: "zephyr", source: include_str!("templates/zephyr.jinja"), end_of_turn: None },
];

/// Their names, for people.
pub(super) fn names() -> String {
    BUILTINS.map(|b| b.name).join(", ")
}

//! A conversation with a model: messages, its chat template, and what was computed of them.
//!
//! For each answer the whole conversation is rendered and encoded anew, and the [`Generator`] keeps the longest
//! beginning that is computed already. So what the model reads is always what the template makes of the messages,
//! even where an answer would be encoded otherwise than it was generated, or a template changes earlier messages.

use quern_model::chat::{ChatTemplate, Message};

use crate::{GenerateOptions, GenerateReport, Generator, Listener, Model, Result, Stop};

/// What the user should know of what the template made of the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatNote {
    /// The template has no place for a system prompt: it went in front of the first message.
    SystemMoved,
    /// The template leaves out what messages of this role say: the model does not read it.
    LeftOut {
        /// `system`, `user` or `assistant`.
        role: String,
    },
}

/// A conversation in progress.
#[derive(Debug)]
pub struct Chat<'m> {
    model: &'m Model,
    template: ChatTemplate,
    options: GenerateOptions,
    generator: Option<Generator<'m>>,
    system: Option<String>,
    messages: Vec<Message>,
    system_moved: bool,
    notes: Vec<ChatNote>,
    /// How many of the notes were taken.
    taken: usize,
}

impl<'m> Chat<'m> {
    /// A conversation without messages. Of `options`, how a prompt is encoded does not matter.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn new(model: &'m Model, template: ChatTemplate, mut options: GenerateOptions) -> Result<Self> {
        options.own_text = true;
        // An end of message that is plain text to this model ends the answer all the same.
        options.stop_texts.extend(template.foreign_end(model.tokenizer()?).map(str::to_owned));
        Ok(Self {
            model,
            template,
            options,
            generator: None,
            system: None,
            messages: Vec::new(),
            system_moved: false,
            notes: Vec::new(),
            taken: 0,
        })
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Sets the system prompt, from the next message on.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system.filter(|text| !text.is_empty());
    }

    /// Whether the system prompt was put in front of the first message, because the template does not take one.
    pub fn system_moved(&self) -> bool {
        self.system_moved
    }

    /// What became known since the last call. Each note comes once.
    pub fn take_notes(&mut self) -> &[ChatNote] {
        let taken = std::mem::replace(&mut self.taken, self.notes.len());
        &self.notes[taken..]
    }

    /// The messages so far, the system prompt first.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Removes all messages. The system prompt stays.
    pub fn reset(&mut self) {
        self.messages.clear();
    }

    /// Adds `text` as the user's message; the answer goes to `listener`. If it fails, or is interrupted before the
    /// first token, neither message is kept.
    ///
    /// # Errors
    /// The template fails or refuses the messages; as [`crate::generate`].
    pub fn say(&mut self, text: &str, listener: &mut dyn Listener) -> Result<GenerateReport> {
        self.messages.push(Message::new("user", text));
        let answer = self.answer(listener);
        match &answer {
            Ok(report) if report.stop != Stop::Interrupted || !report.text.is_empty() => {
                self.messages.push(Message::new("assistant", report.text.as_str()));
            }
            _ => {
                self.messages.pop();
            }
        }
        answer
    }

    fn answer(&mut self, listener: &mut dyn Listener) -> Result<GenerateReport> {
        let tokenizer = self.model.tokenizer()?;
        let prompt = self.template.prompt(tokenizer, self.system.as_deref(), &self.messages)?;
        self.system_moved = prompt.system_moved;
        let moved = prompt.system_moved.then_some(ChatNote::SystemMoved);
        let left_out = prompt.left_out.into_iter().map(|message| ChatNote::LeftOut { role: message.role });
        for note in moved.into_iter().chain(left_out) {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        let generator = match &mut self.generator {
            Some(generator) => generator,
            none => {
                // The first prompt and the limit say how much room is needed at least.
                let context = self.options.context_for(self.model, prompt.tokens.len());
                none.insert(Generator::new(self.model, self.options.clone(), context)?)
            }
        };
        generator.generate(&prompt.tokens, listener)
    }
}

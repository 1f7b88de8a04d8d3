//! What mends an error, in the words of the command line: libraries say what to do by a [`Remedy`], here it gets its
//! flags.

use std::error::Error as StdError;

use quern_hub::Error as HubError;
use quern_model::ChatError;
use quern_quantize::auto::Error as AutoError;
use quern_quantize::calibrated::Error as CalibratedError;
use quern_quantize::imatrix::{AddError, CollectError};
use quern_quantize::job::Error as QuantizeError;
use quern_quantize::recipe::RecipeError;
use quern_run::Error as RunError;
use quern_tensor_io::{Error as FileError, Remedy};

use crate::format::escape;

/// The error in one line, with what mends it; what it repeats of files is escaped.
pub fn described(error: &anyhow::Error) -> String {
    let described = match error.chain().find_map(of) {
        None => format!("{error:#}"),
        Some(remedy) => format!("{error:#}; {}", words(&remedy)),
    };
    escape::sentence(&described).into_owned()
}

/// The remedy of an error of quern's libraries.
fn of(error: &(dyn StdError + 'static)) -> Option<Remedy> {
    if let Some(error) = error.downcast_ref::<FileError>() {
        return error.remedy();
    }
    let remedies = [
        error.downcast_ref::<RunError>().map(RunError::remedy),
        error.downcast_ref::<ChatError>().map(ChatError::remedy),
        error.downcast_ref::<QuantizeError>().map(QuantizeError::remedy),
        error.downcast_ref::<AutoError>().map(AutoError::remedy),
        error.downcast_ref::<RecipeError>().map(RecipeError::remedy),
        error.downcast_ref::<CalibratedError>().map(CalibratedError::remedy),
        error.downcast_ref::<CollectError>().map(CollectError::remedy),
        error.downcast_ref::<AddError>().map(AddError::remedy),
        error.downcast_ref::<HubError>().map(HubError::remedy),
    ];
    remedies.into_iter().flatten().flatten().next()
}

/// The remedy as part of a sentence.
fn words(remedy: &Remedy) -> String {
    let text = match remedy {
        Remedy::ReplaceOutput => "pass --force to replace it, or choose another name",
        Remedy::AllowRequantize => "start from the original weights, or pass --allow-requantize",
        Remedy::LoadAsStored => "run it without --load-in, or start from the original weights",
        Remedy::ConvertToSafetensors => {
            "start from the original checkpoint, or convert the file first (quern convert --to safetensors)"
        }
        Remedy::ChooseDtype(types) => {
            let names: Vec<&str> = types.iter().map(|t| t.name()).collect();
            return format!("choose --dtype {}", names.join(" or "));
        }
        Remedy::KeepDtype => "leave --dtype out, and the numbers stay as they are",
        Remedy::DecodeOrRequantize => {
            "--dtype f16 (or bf16, f32) decodes the layers, and quern quantize --allow-requantize makes blocks of the \
             decoded values"
        }
        Remedy::QuantizeWithGptq => "quern quantize --to gptq makes them from a model's weights",
        Remedy::ChooseTensorType => "choose another type for it with --tensor-type",
        Remedy::GiveImatrix => "pass one with --imatrix",
        Remedy::StateArchitecture(name) => {
            return format!("pass --architecture {name} to treat it as such a model");
        }
        Remedy::ListArchitectures => "\"quern inspect --architectures\" lists those that are",
        Remedy::CheckWeights => "quern inspect --check shows whether all weights are finite",
        Remedy::ListProblems => "quern inspect --check lists them all",
        Remedy::ListMetadata => "quern inspect --metadata lists them",
        Remedy::ListTensors => "quern inspect --tensors lists them all",
        Remedy::TypeNewKey { edit } => {
            return format!("to add it, name its type: --set {edit} (or u32, f32, bool …)");
        }
        Remedy::RestartJob => "repeat it as it was to go on with it, or pass --restart to begin anew",
        Remedy::LargerContext => "use a larger --context or a shorter text",
        Remedy::FewerTokens => "use a smaller -n or a shorter prompt",
        Remedy::LargerContextOrFewerTokens => "use a larger --context or a smaller -n",
        Remedy::LongerText => "take a longer text or a smaller --context",
        Remedy::RaiseMemory => "raise --max-memory, take a smaller --context, or --kv q8_0",
        Remedy::FreeMemory => "free memory, take a smaller --context, or --kv q8_0",
        Remedy::RaiseMemoryOrUseGguf => {
            "raise --max-memory, or convert the model to GGUF, which runs from the file (quern convert --to gguf)"
        }
        Remedy::SmallerCache { quantize: true } => "use a smaller --context or --kv q8_0",
        Remedy::SmallerCache { quantize: false } => "use a smaller --context",
        Remedy::FewerGpuLayers { fitting: 0 } => {
            "use a smaller --context or --kv q8_0, or compute on the CPU with --device cpu"
        }
        Remedy::FewerGpuLayers { fitting } => {
            return format!(
                "use --ngl {fitting}, a smaller --context or --kv q8_0, or leave --ngl out for as many as fit"
            );
        }
        Remedy::UseCpu => "use --device cpu, or --device auto, which takes a GPU only where there is one",
        Remedy::ChooseChatTemplate { builtin } => {
            let others: String = builtin.iter().skip(1).map(|name| format!("{name}, ")).collect();
            let first = builtin.first().copied().unwrap_or("FILE");
            return format!(
                "--chat-template {first} (or {others}or a Jinja file) gives it one, but only a model that was trained on \
                 that form answers well"
            );
        }
        Remedy::FreeSpace => "free some space, or write to another disk with -o",
        Remedy::LessCalibration => "free memory, or take fewer --samples or a smaller --context",
        Remedy::SmallerContext => "free memory, or take a smaller --context",
        Remedy::UseCache => "models in the cache can be used with --offline",
        Remedy::GoOnline => "pull it once without --offline",
        Remedy::ChooseFolder => "choose another folder with -o, or set HF_HUB_CACHE to one",
        Remedy::InstallNvidiaDriver => "install the NVIDIA driver, or pass --device cpu",
        Remedy::UpdateNvidiaDriver => "install NVIDIA driver 550 or later, or pass --device cpu",
        Remedy::LessOnCard => {
            "free memory there, or put fewer layers on it with --ngl, or use a smaller --context or --kv q8_0"
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_found_through_wrapped_errors() {
        let file = || FileError::refused("out", "already exists").with_remedy(Remedy::ReplaceOutput);
        let expected = "out: already exists; pass --force to replace it, or choose another name";
        let errors: [anyhow::Error; 6] = [
            file().into(),
            QuantizeError::from(file()).into(),
            RunError::from(file()).into(),
            CalibratedError::from(RunError::from(file())).into(),
            CollectError::from(RunError::from(file())).into(),
            HubError::from(file()).into(),
        ];
        for error in errors {
            assert_eq!(described(&error), expected);
            assert_eq!(described(&error.context("while writing")), format!("while writing: {expected}"));
        }
        assert_eq!(described(&FileError::refused("out", "no").into()), "out: no");
    }

    #[test]
    fn words_name_their_flags() {
        use quern_tensor_io::ElementType::{BF16, F32};
        let template = Remedy::ChooseChatTemplate { builtin: vec!["chatml", "phi3", "zephyr"] };
        for (remedy, expected) in [
            (Remedy::ChooseDtype(&[BF16, F32]), "choose --dtype bf16 or f32"),
            (Remedy::TypeNewKey { edit: "a.b:str=1".into() }, "--set a.b:str=1"),
            (Remedy::FewerGpuLayers { fitting: 17 }, "use --ngl 17"),
            (Remedy::FewerGpuLayers { fitting: 0 }, "--device cpu"),
            (template, "--chat-template chatml (or phi3, zephyr, or a Jinja file)"),
        ] {
            assert!(words(&remedy).contains(expected), "{}", words(&remedy));
        }
    }
}

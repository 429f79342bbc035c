use burn::tensor::Device;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::decoder::test_models::{GPT2, LLAMA, logits, random, with_live_adapters};
use crate::weights::save::flat_parameters;

fn config() -> LoraConfig {
    LoraConfig {
        rank: 3,
        alpha: 6.0,
        dropout: 0.0,
        rank_stabilized: false,
        targets: Targets::AllLinear,
        modules_to_save: Vec::new(),
    }
}

fn adapted(text: &str, config: &LoraConfig) -> Decoder {
    let mut decoder = random(text, &Device::flex().autodiff());
    decoder.adapt(config, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
    decoder
}

/// The paths of trainable parameters.
fn trained(decoder: &Decoder) -> Vec<String> {
    struct Trained(Vec<String>, Vec<String>);
    impl burn::module::ModuleVisitor for Trained {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.1.push(self.0.join("."));
            }
        }
    }
    let mut visitor = Trained(Vec::new(), Vec::new());
    decoder.visit(&mut visitor);
    visitor.1
}

#[test]
fn fresh_adapters_change_nothing_and_alone_are_trained() {
    for text in [LLAMA, GPT2] {
        let plain = random(text, &Device::flex().autodiff());
        let decoder = adapted(text, &config());
        assert_eq!(logits(&decoder), logits(&plain));
        let adaptable = decoder.adaptable();
        assert_eq!(adaptable.len(), if text == GPT2 { 2 * 6 } else { 2 * 7 });
        let trained = trained(&decoder);
        assert_eq!(trained.len(), 2 * adaptable.len());
        assert!(trained.iter().all(|path| path.contains(".adapter.")), "{trained:?}");
    }
}

#[test]
fn the_first_matrix_is_uniform_as_in_peft() {
    let decoder = adapted(LLAMA, &LoraConfig { rank: 64, ..config() });
    let values = flat_parameters(&decoder);
    let a: Vec<f32> = values["blocks.0.query.adapter.a"]
        .clone()
        .into_data()
        .try_into_vec()
        .unwrap();
    // PEFT: kaiming_uniform_(a=sqrt(5)), whose limit is sqrt(6 / (1 + 5) / inputs).
    let limit = 1.0 / 16.0_f32.sqrt();
    assert!(a.iter().all(|value| value.abs() <= limit));
    let variance = a.iter().map(|value| value * value).sum::<f32>() / a.len() as f32;
    assert!((variance / (limit * limit / 3.0) - 1.0).abs() < 0.1, "{variance}");
    let b: Vec<f32> = values["blocks.0.query.adapter.b"]
        .clone()
        .into_data()
        .try_into_vec()
        .unwrap();
    assert!(b.iter().all(|value| *value == 0.0));
}

#[test]
fn merging_keeps_the_outputs() {
    for text in [LLAMA, GPT2] {
        for rank_stabilized in [false, true] {
            let config = LoraConfig {
                rank_stabilized,
                ..config()
            };
            let decoder = with_live_adapters(adapted(text, &config));
            let before = logits(&decoder);
            assert_ne!(before, logits(&random(text, &Device::flex())));
            let merged = decoder.merged();
            assert!(merged.lora().is_none() && merged.adapters().is_empty());
            for (before, after) in before.iter().zip(logits(&merged)) {
                assert!(
                    (before - after).abs() < 1e-4 * before.abs().max(1.0),
                    "{before} {after}"
                );
            }
        }
    }
    assert_eq!(LoraConfig::scale(6.0, 4, false), 1.5);
    assert_eq!(LoraConfig::scale(6.0, 4, true), 3.0);
}

#[test]
fn layers_are_named_as_in_peft() {
    let named = |names: &[&str], saved: &[&str]| LoraConfig {
        targets: Targets::Named(names.iter().map(|name| (*name).to_owned()).collect()),
        modules_to_save: saved.iter().map(|name| (*name).to_owned()).collect(),
        ..config()
    };
    let decoder = adapted(
        LLAMA,
        &named(&["q_proj", "layers.1.mlp.down_proj"], &["lm_head", "norm"]),
    );
    assert_eq!(
        trained(&decoder),
        [
            "blocks.0.query.adapter.a",
            "blocks.0.query.adapter.b",
            "blocks.1.query.adapter.a",
            "blocks.1.query.adapter.b",
            "blocks.1.down.adapter.a",
            "blocks.1.down.adapter.b",
            "norm.weight",
            "head",
        ]
    );
    // The three layers that GPT-2 keeps in one matrix.
    assert_eq!(trained(&adapted(GPT2, &named(&["c_attn"], &[]))).len(), 2 * 2 * 3);
    let refused = |config: LoraConfig| {
        let mut decoder = random(LLAMA, &Device::flex());
        let error = decoder.adapt(&config, &mut ChaCha8Rng::seed_from_u64(5)).unwrap_err();
        assert!(decoder.lora().is_none());
        error.to_string()
    };
    let error = refused(named(&["c_attn"], &[]));
    assert!(error.contains("c_attn") && error.contains("q_proj"), "{error}");
    // The end of a name in whole parts.
    assert!(refused(named(&["proj"], &[])).contains("\"proj\""));
    assert!(refused(named(&["q_proj"], &["nothing"])).contains("nothing"));
    assert!(refused(named(&["q_proj"], &["q_proj"])).contains("only one"));
    assert!(refused(LoraConfig { rank: 0, ..config() }).contains("lora-rank"));
    assert!(
        refused(LoraConfig {
            dropout: 1.0,
            ..config()
        })
        .contains("lora-dropout")
    );
    assert!(
        refused(LoraConfig {
            alpha: f64::NAN,
            ..config()
        })
        .contains("lora-alpha")
    );
}

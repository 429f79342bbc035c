use super::super::test_file::TestFile;
use super::super::{Array, Value};
use super::*;

fn counting(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

fn llama() -> TestFile {
    TestFile::of("llama")
        .size("llama.attention.head_count", 2)
        .size("llama.attention.head_count_kv", 1)
}

#[test]
fn llamas_rotated_rows_go_back_to_halves() {
    // Two heads of four rows. The converter's own lines, with row i holding i:
    //     w = np.arange(8).reshape(2, 2, 4 // 2, 1).swapaxes(1, 2).reshape(8, 1)
    // make [0, 2, 1, 3, 4, 6, 5, 7] of 0..8; the way back of 0..8 is the same list.
    let gguf = llama()
        .floats("blk.0.attn_q.weight", &[8, 1], &counting(8))
        .floats("blk.0.attn_q.bias", &[8], &counting(8))
        .floats("blk.0.attn_k.weight", &[6, 2], &counting(12))
        .floats("blk.0.attn_v.weight", &[4, 1], &counting(4))
        .parse()
        .unwrap();
    let values = |name: &str| gguf.weight(name).unwrap().1;
    assert_eq!(
        values("model.layers.0.self_attn.q_proj.weight"),
        [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    );
    assert_eq!(
        values("model.layers.0.self_attn.q_proj.bias"),
        [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    );
    // One head of six rows of two: rows 0, 2, 4, then 1, 3, 5.
    let (shape, keys) = gguf.weight("model.layers.0.self_attn.k_proj.weight").unwrap();
    assert_eq!(
        (shape, keys),
        (
            vec![6, 2],
            vec![0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 2.0, 3.0, 6.0, 7.0, 10.0, 11.0]
        )
    );
    assert_eq!(values("model.layers.0.self_attn.v_proj.weight"), counting(4));
}

#[test]
fn only_llama_is_rotated() {
    let gguf = TestFile::of("qwen2")
        .size("qwen2.attention.head_count", 1)
        .floats("blk.0.attn_q.weight", &[4, 1], &counting(4))
        .parse()
        .unwrap();
    assert_eq!(
        gguf.weight("model.layers.0.self_attn.q_proj.weight").unwrap().1,
        counting(4)
    );
}

#[test]
fn gpt2s_layers_are_transposed() {
    let gguf = TestFile::of("gpt2")
        .floats("blk.0.ffn_up.weight", &[3, 2], &counting(6))
        .floats("token_embd.weight", &[3, 2], &counting(6))
        .floats("blk.0.ffn_up.bias", &[3], &counting(3))
        .parse()
        .unwrap();
    let (shape, values) = gguf.weight("transformer.h.0.mlp.c_fc.weight").unwrap();
    assert_eq!((shape, values), (vec![2, 3], vec![0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));
    assert_eq!(
        gguf.weight("transformer.wte.weight").unwrap(),
        (vec![3, 2], counting(6))
    );
    let weights = gguf.weights().unwrap();
    assert_eq!(
        weights[0],
        WeightInfo {
            name: "transformer.h.0.mlp.c_fc.weight".to_owned(),
            shape: vec![2, 3]
        }
    );
    assert_eq!(weights.len(), 3);
}

#[test]
fn gemmas_norms_lose_their_one() {
    let gguf = TestFile::of("gemma")
        .floats("output_norm.weight", &[2], &[1.5, 0.75])
        .floats("blk.0.ffn_up.weight", &[1, 2], &[1.5, 0.75])
        .parse()
        .unwrap();
    assert_eq!(gguf.weight("model.norm.weight").unwrap().1, [0.5, -0.25]);
    assert_eq!(gguf.weight("model.layers.0.mlp.up_proj.weight").unwrap().1, [1.5, 0.75]);
}

#[test]
fn nothing_is_left_out_silently() {
    let gguf = llama()
        .floats("blk.0.ffn_gate_exps.weight", &[1], &[0.0])
        .parse()
        .unwrap();
    let error = gguf.weights().unwrap_err().to_string();
    assert!(error.contains("ffn_gate_exps"), "{error}");
    // Frequencies are configuration.
    let gguf = llama().floats("rope_freqs.weight", &[1], &[1.0]).parse().unwrap();
    assert_eq!(gguf.weights().unwrap(), []);
    let error = gguf.weight("lm_head.weight").unwrap_err();
    assert!(matches!(error, GgufError::MissingTensor { .. }), "{error}");
    let error = TestFile::of("mamba")
        .parse()
        .unwrap()
        .weights()
        .unwrap_err()
        .to_string();
    assert!(error.contains("mamba") && error.contains("qwen3"), "{error}");
    let error = TestFile::default().parse().unwrap().weights().unwrap_err();
    assert!(matches!(error, GgufError::MissingKey { .. }), "{error}");
}

#[test]
fn heads_that_do_not_fit_are_errors() {
    let gguf = llama()
        .floats("blk.0.attn_q.weight", &[6, 1], &counting(6))
        .parse()
        .unwrap();
    let error = gguf.weights().unwrap_err().to_string();
    assert!(error.contains("6 rows") && error.contains("2 heads"), "{error}");
    let gguf = TestFile::of("llama")
        .floats("blk.0.attn_q.weight", &[4, 1], &counting(4))
        .parse()
        .unwrap();
    assert!(matches!(gguf.weights().unwrap_err(), GgufError::MissingKey { .. }));
    let per_layer = |heads: Vec<u32>| {
        let file = TestFile::of("llama").with("llama.attention.head_count", Value::Array(Array::U32(heads)));
        let gguf = file
            .floats("blk.0.attn_q.weight", &[4, 1], &counting(4))
            .parse()
            .unwrap();
        gguf.weight("model.layers.0.self_attn.q_proj.weight")
            .map(|(_, values)| values)
    };
    assert_eq!(per_layer(vec![1, 1]).unwrap(), [0.0, 2.0, 1.0, 3.0]);
    assert!(
        per_layer(vec![1, 2])
            .unwrap_err()
            .to_string()
            .contains("layer to layer")
    );
    assert!(per_layer(vec![]).is_err());
}

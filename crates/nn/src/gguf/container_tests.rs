use proptest::prelude::*;

use super::super::test_file::{TestFile, parse};
use super::super::{Array, Gguf, GgufError, TensorKind, Value};

/// A file with a value of every type and tensors of several kinds.
fn full() -> TestFile {
    TestFile::of("llama")
        .with("u8", Value::U8(200))
        .with("i8", Value::I8(-3))
        .with("u16", Value::U16(60_000))
        .with("i16", Value::I16(-30_000))
        .with("u32", Value::U32(4_000_000_000))
        .with("i32", Value::I32(-2_000_000_000))
        .with("f32", Value::F32(0.5))
        .with("bool", Value::Bool(true))
        .with("u64", Value::U64(1 << 60))
        .with("i64", Value::I64(-(1 << 60)))
        .with("f64", Value::F64(0.1))
        .strings("strings", &["", "\u{2581}a", "b"])
        .with("numbers", Value::Array(Array::I32(vec![1, -2, 3])))
        .with(
            "nested",
            Value::Array(Array::Array(vec![Array::U8(vec![1, 2]), Array::Bool(vec![false])])),
        )
        .floats("token_embd.weight", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("blk.0.attn_q.weight", &[2, 32], 8, vec![1; 68])
        .tensor("half", &[4], 1, vec![0, 0x3c, 0, 0xc0, 0, 0, 1, 0])
}

fn malformed(result: Result<Gguf, GgufError>, words: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, GgufError::Malformed { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn what_is_written_is_read() {
    for version in [2, 3] {
        let file = TestFile {
            version: Some(version),
            ..full()
        };
        let gguf = file.parse().unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, 32));
        assert_eq!(gguf.metadata().len(), file.metadata.len());
        for (key, value) in &file.metadata {
            assert_eq!(gguf.metadata().get(key), Some(value), "{key}");
        }
        let names: Vec<&str> = gguf.tensors().iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["token_embd.weight", "blk.0.attn_q.weight", "half"]);
        let info = gguf.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!(
            (info.shape.as_slice(), info.kind, info.bytes.len()),
            (&[2, 32][..], TensorKind::Q8_0, 68)
        );
        let (shape, values) = gguf.read("token_embd.weight").unwrap();
        assert_eq!((shape, values), (vec![3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        // 1, -2, 0 and the least positive number in half precision, 2^-24.
        assert_eq!(gguf.read("half").unwrap().1, [1.0, -2.0, 0.0, 2f32.powi(-24)]);
    }
}

#[test]
fn the_alignment_is_the_files_own() {
    let file = TestFile {
        alignment: Some(256),
        ..full()
    };
    let gguf = file.clone().size("general.alignment", 256).parse().unwrap();
    assert_eq!(gguf.alignment(), 256);
    assert!(gguf.tensors().iter().all(|info| info.bytes.start % 256 == 0));
    assert_eq!(gguf.read("token_embd.weight").unwrap().1[5], 6.0);
    for wrong in [0, 24] {
        malformed(full().size("general.alignment", wrong).parse(), "power of two");
    }
}

#[test]
fn other_files_are_named_as_what_they_are() {
    let error = parse(b"PK\x03\x04whatever".to_vec()).unwrap_err();
    assert!(matches!(error, GgufError::NotGguf { .. }), "{error}");
    assert!(parse(vec![]).unwrap_err().to_string().contains("0 bytes"));
    for (start, words) in [
        (&b"FUGG\0\0\0\x03"[..], "big-endian"),
        (b"GGUF\0\0\0\x03", "big-endian"),
        (b"GGUF\x01\0\0\0", "version 1"),
        (b"GGUF\x04\0\0\0", "version 4"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
    ] {
        let error = parse(start.to_vec()).unwrap_err();
        assert!(matches!(error, GgufError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn every_cut_is_noticed() {
    let bytes = full().bytes();
    for cut in 0..bytes.len() {
        assert!(parse(bytes[..cut].to_vec()).is_err(), "{cut}");
    }
    parse(bytes).unwrap();
}

#[test]
fn counts_that_lie_are_caught_before_anything_is_allocated() {
    // The number of tensors, the number of entries, the length of the first key.
    for at in [8, 16, 24] {
        let mut bytes = full().bytes();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        malformed(parse(bytes), "can hold");
    }
    let huge = TestFile::of("llama").tensor("a", &[usize::MAX, usize::MAX], 0, vec![0; 64]);
    malformed(huge.parse(), "beyond");
    let long = TestFile::of("llama").tensor("a", &[17], 0, vec![0; 64]);
    malformed(long.parse(), "beyond");
}

#[test]
fn contradictions_are_errors() {
    malformed(full().size("u8", 1).parse(), "twice");
    malformed(full().floats("half", &[1], &[1.0]).parse(), "twice");
    malformed(
        TestFile::of("llama").tensor("a", &[4, 16], 2, vec![0; 72]).parse(),
        "blocks of 32",
    );
    malformed(
        TestFile::of("llama").tensor("a", &[4], 77, vec![0; 72]).parse(),
        "kind 77",
    );
    malformed(
        TestFile::of("llama").tensor("a", &[1; 9], 0, vec![0; 4]).parse(),
        "9 dimensions",
    );
    let mut file = TestFile::of("llama")
        .floats("a", &[2], &[1.0, 2.0])
        .floats("b", &[2], &[1.0, 2.0]);
    let bytes = file.bytes();
    // The offset of b stands before the padding of the data: 32 bytes in a row of the table's last eight.
    let at = bytes.windows(8).rposition(|word| word == 32u64.to_le_bytes()).unwrap();
    for (offset, words) in [(0u64, "overlap"), (4, "multiple of 32"), (u64::MAX - 31, "beyond")] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        malformed(parse(bytes), words);
    }
    file.tensors.clear();
    let mut deep = Array::U8(vec![]);
    for _ in 0..5 {
        deep = Array::Array(vec![deep]);
    }
    malformed(file.with("deep", Value::Array(deep)).parse(), "deep");
    let mut bytes = TestFile::of("llama").bytes();
    let length = bytes.len();
    bytes[length - 1] = 0xff;
    malformed(parse(bytes), "UTF-8");
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let gguf = TestFile::of("llama")
        .tensor("a", &[256], 10, vec![0; 84])
        .parse()
        .unwrap();
    let error = gguf.read("a").unwrap_err().to_string();
    assert!(error.contains("Q2_K") && error.contains("\"a\""), "{error}");
    assert!(matches!(gguf.read("b").unwrap_err(), GgufError::MissingTensor { .. }));
}

/// Asks for everything; nothing may panic.
fn use_all(gguf: &Gguf) {
    for info in gguf.tensors() {
        if let Ok((shape, values)) = gguf.read(&info.name) {
            assert_eq!(shape.iter().product::<usize>(), values.len());
        }
    }
    for weight in gguf.weights().unwrap_or_default() {
        if let Ok((shape, values)) = gguf.weight(&weight.name) {
            assert_eq!(shape, weight.shape);
            assert_eq!(shape.iter().product::<usize>(), values.len());
        }
    }
    let _ = gguf.config();
    let _ = gguf.tokenizer();
}

/// A file of a whole small model.
fn model() -> TestFile {
    full()
        .size("llama.block_count", 1)
        .size("llama.context_length", 16)
        .size("llama.embedding_length", 2)
        .size("llama.feed_forward_length", 4)
        .size("llama.attention.head_count", 1)
        .with("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .text("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "a", "b", "ab", "<0x00>"])
        .with(
            "tokenizer.ggml.scores",
            Value::Array(Array::F32(vec![0.0, -2.0, -3.0, -1.0, 0.0])),
        )
        .with(
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![2, 1, 1, 4, 6])),
        )
        .size("tokenizer.ggml.bos_token_id", 1)
        .with("llama.rope.freq_base", Value::F32(500_000.0))
        // Llama 3's scaling by 8 with an original context of 8,192.
        .floats("rope_freqs.weight", &[4], &[1.0, 1.0, 2.694_529_7, 8.0])
}

#[test]
fn the_small_model_is_in_order() {
    let gguf = model().parse().unwrap();
    gguf.config().unwrap();
    gguf.tokenizer().unwrap();
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 2u8..4) {
        let mut file = b"GGUF".to_vec();
        file.extend([version, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(&bytes);
        if let Ok(gguf) = parse(file) {
            use_all(&gguf);
        }
        let _ = parse(bytes);
    }

    #[test]
    fn changed_files_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = model().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(gguf) = parse(bytes) {
            use_all(&gguf);
        }
    }

    #[test]
    fn small_numbers_in_the_wrong_place_never_panic(at in any::<prop::sample::Index>(), value in 0u64..300) {
        let mut bytes = model().bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        if let Ok(gguf) = parse(bytes) {
            use_all(&gguf);
        }
    }
}

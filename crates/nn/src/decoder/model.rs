//! The network: embeddings, blocks of attention and feed-forward layers, a head.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use ops::{Forest, Heads, Layout, PackedWeight, Precision, RmsNormed, Rotation, TokenLogProb};
use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;

use super::adapter::{Adapter, LoraConfig};
use super::cache::Cache;
use super::config::{DecoderConfig, Norm, Positions};
use super::packed::PackedEnds;
use super::parameters::{self, Parameter};
use super::projection::{Noise, Projection, Rows, taken};

/// A decoder-only language model.
///
/// A batch is a flat list of tokens and the [`Forest`] that says which of them belong together; there is no padding.
#[derive(Module, Debug)]
pub struct Decoder {
    /// [vocabulary, width].
    embedding: Param<Tensor<2>>,
    /// [positions, width], where positions are learned.
    positions: Option<Param<Tensor<2>>>,
    blocks: Vec<Block>,
    norm: Normalization,
    /// [vocabulary, width], where it is not the embedding.
    head: Option<Param<Tensor<2>>>,
    /// [1, width], of a model that gives scores, or values while it is trained.
    score: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: DecoderConfig,
    /// How the adapters were made, where there are any.
    #[module(skip)]
    lora: Option<LoraConfig>,
    /// Embedding and head laid out for decoding; then the others are empty.
    #[module(skip)]
    packed: Option<PackedEnds>,
}

/// One block: attention, then a feed-forward layer, each on normalised tokens and added to them.
#[derive(Module, Debug)]
pub struct Block {
    attention_norm: Normalization,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    query_norm: Option<Normalization>,
    key_norm: Option<Normalization>,
    feed_forward_norm: Normalization,
    gate: Option<Projection>,
    up: Projection,
    down: Projection,
}

/// A learned normalisation.
#[derive(Module, Debug)]
struct Normalization {
    weight: Param<Tensor<1>>,
    bias: Option<Param<Tensor<1>>>,
}

/// What all blocks of a pass share.
pub(super) struct Pass<'a> {
    config: &'a DecoderConfig,
    rotation: Option<Rotation>,
    layout: Arc<Layout>,
    /// A key for each token, where the adapters drop some of their inputs.
    dropout: Option<&'a [u64]>,
}

/// Makes parameters by path.
struct Builder<'a, E> {
    table: HashMap<String, Parameter>,
    device: &'a Device,
    make: &'a mut dyn FnMut(&Parameter) -> Result<Vec<f32>, E>,
}

impl<E> Builder<'_, E> {
    /// The parameter at `path`, or nothing where this configuration has none.
    fn maybe<const D: usize>(&mut self, path: &str) -> Result<Option<Param<Tensor<D>>>, E> {
        let Some(parameter) = self.table.get(path) else {
            return Ok(None);
        };
        let values = (self.make)(parameter)?;
        let data = TensorData::new(values, parameter.shape.clone());
        Ok(Some(Param::from_data(data, self.device)))
    }

    fn get<const D: usize>(&mut self, path: &str) -> Result<Param<Tensor<D>>, E> {
        let found = self.maybe(path)?;
        Ok(found.unwrap_or_else(|| unreachable!("the table of parameters has {path}")))
    }

    fn norm(&mut self, path: &str) -> Result<Normalization, E> {
        Ok(Normalization {
            weight: self.get(&format!("{path}.weight"))?,
            bias: self.maybe(&format!("{path}.bias"))?,
        })
    }

    fn maybe_norm(&mut self, path: &str) -> Result<Option<Normalization>, E> {
        let weight = self.maybe(&format!("{path}.weight"))?;
        Ok(weight.map(|weight| Normalization { weight, bias: None }))
    }

    fn projection(&mut self, path: &str) -> Result<Projection, E> {
        let weight = self.get(&format!("{path}.weight"))?;
        Ok(Projection::new(weight, self.maybe(&format!("{path}.bias"))?))
    }

    fn block(&mut self, layer: usize, gated: bool) -> Result<Block, E> {
        let path = |name: &str| format!("blocks.{layer}.{name}");
        Ok(Block {
            attention_norm: self.norm(&path("attention_norm"))?,
            query: self.projection(&path("query"))?,
            key: self.projection(&path("key"))?,
            value: self.projection(&path("value"))?,
            output: self.projection(&path("output"))?,
            query_norm: self.maybe_norm(&path("query_norm"))?,
            key_norm: self.maybe_norm(&path("key_norm"))?,
            feed_forward_norm: self.norm(&path("feed_forward_norm"))?,
            gate: gated.then(|| self.projection(&path("gate"))).transpose()?,
            up: self.projection(&path("up"))?,
            down: self.projection(&path("down"))?,
        })
    }
}

impl Decoder {
    /// Builds the network, asking `make` for each parameter's values, row-major, one after another.
    ///
    /// # Errors
    ///
    /// The first error of `make`.
    ///
    /// # Panics
    ///
    /// When `make` returns another number of values than the parameter's shape asks for.
    pub fn build<E>(
        config: &DecoderConfig,
        device: &Device,
        make: &mut dyn FnMut(&Parameter) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let table = parameters::of(config);
        let mut builder = Builder {
            table: table
                .into_iter()
                .map(|parameter| (parameter.path.clone(), parameter))
                .collect(),
            device,
            make,
        };
        Ok(Self {
            embedding: builder.get("embedding")?,
            positions: builder.maybe("positions")?,
            blocks: (0..config.layers)
                .map(|layer| builder.block(layer, config.feed_forward.is_gated()))
                .collect::<Result<_, E>>()?,
            norm: builder.norm("norm")?,
            head: builder.maybe("head")?,
            score: builder.maybe("score")?,
            config: config.clone(),
            lora: None,
            packed: None,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The device that the weights are on.
    pub fn device(&self) -> Device {
        self.embedding.val().device()
    }

    /// What the head sees of each token: `[tokens, width]`, normalised.
    ///
    /// # Panics
    ///
    /// When `tokens` is not as long as `forest`, or a token lies outside the vocabulary.
    pub fn hidden(&self, tokens: &[u32], forest: &Forest) -> Tensor<2> {
        let positions = forest.positions();
        let pass = self.pass(&positions, Arc::new(forest.layout()), None);
        let mut hidden = self.embed(tokens, &positions);
        for layer in 0..self.blocks.len() {
            hidden = self.block(hidden, layer, &pass);
        }
        self.normalize(hidden)
    }

    /// One block over a whole forest.
    pub(super) fn block(&self, hidden: Tensor<2>, layer: usize, pass: &Pass<'_>) -> Tensor<2> {
        self.blocks[layer].forward(hidden, layer, pass, |q, k, v, heads| {
            ops::tree_attention(q, k, v, &pass.layout, heads)
        })
    }

    /// The last normalisation.
    pub(super) fn normalize(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden, &self.config)
    }

    /// The same for new tokens of texts whose earlier keys and values are in `cache`: `layout` says where, for the cache
    /// with the new tokens' keys in its `rows`.
    ///
    /// # Panics
    ///
    /// When tokens, positions, rows and layout do not fit together.
    pub fn extend(
        &self,
        tokens: &[u32],
        positions: &[usize],
        rows: &[usize],
        layout: Layout,
        cache: &mut Cache,
    ) -> Tensor<2> {
        let pass = self.pass(positions, Arc::new(layout), None);
        let mut hidden = self.embed(tokens, positions);
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(hidden, layer, &pass, |q, k, v, heads| {
                let (k, v) = cache.put(layer, rows, k, v);
                ops::tree_attention(q, k, v, &pass.layout, heads)
            });
        }
        self.norm.forward(hidden, &self.config)
    }

    /// The logits of hidden rows: `[rows, width]` to `[rows, vocabulary]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.packed {
            Some(packed) => ops::packed_linear(hidden, &packed.head, None),
            None => ops::linear(hidden, self.head_weight().transpose(), None),
        }
    }

    /// The log-probabilities of `targets` at the hidden rows `rows`.
    ///
    /// # Panics
    ///
    /// When there are not as many targets as rows, or one lies outside the vocabulary.
    pub fn token_log_prob(
        &self,
        hidden: Tensor<2>,
        rows: &[usize],
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> TokenLogProb {
        let hidden = select(hidden, rows.iter().copied());
        ops::token_log_prob(hidden, self.head_weight(), targets, temperature)
    }

    /// The sum of the log-probabilities times `weights`, a scalar that alone is differentiable, and what is found of each
    /// row; for losses that are such sums cheaper than [`Decoder::token_log_prob`].
    ///
    /// # Panics
    ///
    /// As [`Decoder::token_log_prob`], or when there are not as many weights as rows.
    pub fn token_log_prob_sum(
        &self,
        hidden: Tensor<2>,
        rows: &[usize],
        targets: Arc<[u32]>,
        weights: Arc<[f32]>,
        temperature: f64,
    ) -> (Tensor<1>, TokenLogProb) {
        let hidden = select(hidden, rows.iter().copied());
        ops::token_log_prob_sum(hidden, self.head_weight(), targets, weights, temperature)
    }

    /// The scores of texts whose last tokens are at these hidden rows, or the values there.
    ///
    /// # Panics
    ///
    /// When the model gives neither.
    pub fn scores(&self, hidden: Tensor<2>, rows: &[usize]) -> Tensor<1> {
        let score = self.score.as_ref().unwrap_or_else(|| panic!("the model gives scores"));
        let hidden = select(hidden, rows.iter().copied());
        ops::linear(hidden, score.val().transpose(), None).reshape([rows.len()])
    }

    /// Puts a fresh score in the place of the head, drawn from N(0, 1 / (width + 1)) (Stiennon et al. 2020, appendix
    /// B.1), unless there is one.
    pub fn give_scores<R: Rng + ?Sized>(&mut self, rng: &mut R) {
        if self.config.scores {
            return;
        }
        let width = self.config.hidden_size;
        let deviation = ((width + 1) as f64).powf(-0.5);
        let values: Vec<f32> = (0..width)
            .map(|_| (rng.sample::<f64, _>(StandardNormal) * deviation) as f32)
            .collect();
        self.set_score(values);
    }

    /// Adds a value of each token, 0 at first, beside the head: [`Decoder::scores`] gives it at any row. It is no part of
    /// the architecture and is not saved with the model.
    pub fn give_values(&mut self) {
        let data = TensorData::new(vec![0.0_f32; self.config.hidden_size], [1, self.config.hidden_size]);
        self.score = Some(Param::from_data(data, &self.device()));
    }

    /// Takes the value away again.
    pub fn take_values(&mut self) {
        if !self.config.scores {
            self.score = None;
        }
    }

    /// Puts a score of these weights in the place of the head.
    pub(crate) fn set_score(&mut self, weights: Vec<f32>) {
        let data = TensorData::new(weights, [1, self.config.hidden_size]);
        self.score = Some(Param::from_data(data, &self.device()));
        self.head = None;
        self.config.score();
    }

    fn head_weight(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).val()
    }

    pub(super) fn pass<'a>(&'a self, positions: &[usize], layout: Arc<Layout>, dropout: Option<&'a [u64]>) -> Pass<'a> {
        let rotation = match &self.config.positions {
            Positions::Learned => None,
            Positions::Rotary(rope) => Some(Rotation::new(
                positions,
                &rope.frequencies(self.config.head_size),
                rope.attention_factor(),
                &self.device(),
            )),
        };
        Pass {
            config: &self.config,
            rotation,
            layout,
            dropout,
        }
    }

    /// How the adapters were made, where there are any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Puts adapters on the layers of these paths.
    pub(crate) fn set_adapters(&mut self, mut adapters: BTreeMap<String, Adapter>, config: LoraConfig) {
        self.for_each_projection(|path, projection| -> Result<(), Infallible> {
            projection.adapter = adapters.remove(path);
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
        debug_assert!(adapters.is_empty(), "every adapter has a layer");
        self.lora = Some(config);
    }

    /// The adapters by the paths of their layers; they share the decoder's memory.
    pub(crate) fn adapters(&self) -> BTreeMap<String, Adapter> {
        let mut adapters = BTreeMap::new();
        self.clone()
            .for_each_projection(|path, projection| -> Result<(), Infallible> {
                if let Some(adapter) = &projection.adapter {
                    adapters.insert(path.to_owned(), adapter.clone());
                }
                Ok(())
            })
            .unwrap_or_else(|never| match never {});
        adapters
    }

    /// Whether the embeddings of tokens or positions are trained.
    pub(super) fn trains_embeddings(&self) -> bool {
        let positions = self.positions.as_ref();
        self.embedding.is_require_grad() || positions.is_some_and(|table| table.is_require_grad())
    }

    pub(super) fn forget_adapters(&mut self) {
        self.lora = None;
    }

    /// The embeddings of the tokens, [vocabulary, width].
    pub(crate) fn embedding(&self) -> Param<Tensor<2>> {
        self.embedding.clone()
    }

    pub(super) fn pack_ends(&mut self, precision: Precision) {
        let pack = |table: &mut Param<Tensor<2>>| Arc::new(PackedWeight::transposed(taken(table), precision));
        let embedding = pack(&mut self.embedding);
        let head = self.head.as_mut().map_or_else(|| Arc::clone(&embedding), pack);
        self.packed = Some(PackedEnds { embedding, head });
    }

    /// Gives the head weights of its own, where it had the embedding's.
    pub(crate) fn untie(&mut self, head: Param<Tensor<2>>) {
        self.head = Some(head);
        self.config.tied = false;
        self.config
            .source
            .insert("tie_word_embeddings".to_owned(), false.into());
    }

    /// Visits each linear layer of the blocks with its path, `blocks.3.query`.
    pub(crate) fn for_each_projection<E>(
        &mut self,
        mut visit: impl FnMut(&str, &mut Projection) -> Result<(), E>,
    ) -> Result<(), E> {
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for (name, projection) in block.projections() {
                visit(&format!("blocks.{layer}.{name}"), projection)?;
            }
        }
        Ok(())
    }

    pub(super) fn embed(&self, tokens: &[u32], positions: &[usize]) -> Tensor<2> {
        let size = self.config.vocabulary_size;
        assert!(
            tokens.iter().all(|&token| (token as usize) < size),
            "every token is below the vocabulary's size, {size}"
        );
        assert_eq!(tokens.len(), positions.len(), "a position for each token");
        let rows = tokens.iter().map(|&token| token as usize);
        let mut embedded = match &self.packed {
            Some(packed) => packed.embedding.rows(&rows.collect::<Vec<_>>(), &self.device()),
            None => select(self.embedding.val(), rows),
        };
        if self.config.embedding_scale != 1.0 {
            embedded = embedded.mul_scalar(self.config.embedding_scale);
        }
        match &self.positions {
            None => embedded,
            Some(table) => embedded + select(table.val(), positions.iter().copied()),
        }
    }
}

/// The rows `rows` of a matrix.
///
/// # Panics
///
/// When there is no such row.
pub fn select_rows(from: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let [count, _] = from.dims();
    assert!(
        rows.iter().all(|&row| row < count),
        "rows lie within the {count} of the matrix"
    );
    select(from, rows.iter().copied())
}

fn select(from: Tensor<2>, rows: impl Iterator<Item = usize>) -> Tensor<2> {
    let rows: Vec<i64> = rows.map(|row| row as i64).collect();
    let count = rows.len();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &from.device());
    from.select(0, indices)
}

impl Normalization {
    fn forward(&self, x: Tensor<2>, config: &DecoderConfig) -> Tensor<2> {
        self.rows(x, config).values()
    }

    /// The same for projections.
    fn rows(&self, x: Tensor<2>, config: &DecoderConfig) -> Rows {
        let weight = self.weight.val();
        let epsilon = config.norm_epsilon;
        let normed = |weight| Rows::Normed(RmsNormed::new(x.clone(), weight, epsilon));
        match (config.norm, &self.bias) {
            (Norm::Layer, Some(bias)) => Rows::Plain(ops::layer_norm(x, weight, bias.val(), epsilon)),
            (Norm::OffsetRootMeanSquare, _) => normed(weight.add_scalar(1.0)),
            (Norm::RootMeanSquare | Norm::Layer, _) => normed(weight),
        }
    }

    /// Each head of `[tokens, heads * size]` by itself.
    fn forward_heads(&self, x: Tensor<2>, config: &DecoderConfig) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let heads = width / config.head_size;
        self.forward(x.reshape([tokens * heads, config.head_size]), config)
            .reshape([tokens, width])
    }
}

impl Block {
    /// The linear layers by their names.
    fn projections(&mut self) -> impl Iterator<Item = (&'static str, &mut Projection)> {
        [
            Some(("query", &mut self.query)),
            Some(("key", &mut self.key)),
            Some(("value", &mut self.value)),
            Some(("output", &mut self.output)),
            self.gate.as_mut().map(|gate| ("gate", gate)),
            Some(("up", &mut self.up)),
            Some(("down", &mut self.down)),
        ]
        .into_iter()
        .flatten()
    }

    /// `attend` maps queries, keys and values to what the heads found, all `[tokens, heads * size]`.
    fn forward(
        &self,
        x: Tensor<2>,
        layer: usize,
        pass: &Pass<'_>,
        attend: impl FnOnce(Tensor<2>, Tensor<2>, Tensor<2>, Heads) -> Tensor<2>,
    ) -> Tensor<2> {
        let config = pass.config;
        // Seven layers of a block may drop inputs, and no two of them the same.
        let noise = |place: u64| {
            let site = layer as u64 * 8 + place;
            pass.dropout.map(|keys| Noise { keys, site })
        };
        let normed = self.attention_norm.rows(x.clone(), config);
        let turn = |x: Tensor<2>, norm: &Option<Normalization>| {
            let x = match norm {
                Some(norm) => norm.forward_heads(x, config),
                None => x,
            };
            match &pass.rotation {
                Some(rotation) => ops::rotary(x, rotation),
                None => x,
            }
        };
        let projections = [(&self.query, noise(0)), (&self.key, noise(1)), (&self.value, noise(2))];
        let [q, k, v] = Projection::forward_all(projections, &normed);
        let (q, k) = (turn(q, &self.query_norm), turn(k, &self.key_norm));
        let heads = Heads {
            queries: config.heads,
            keys: config.key_value_heads,
            size: config.head_size,
            scale: (config.head_size as f64).powf(-0.5),
            window: config.windows[layer],
        };
        let x = x + self.output.forward(attend(q, k, v, heads), noise(3));

        let normed = self.feed_forward_norm.rows(x.clone(), config);
        x + match &self.gate {
            None => {
                let [inner] = Projection::forward_all([(&self.up, noise(4))], &normed);
                let inner = ops::gelu(inner);
                self.down.forward(inner, noise(6))
            }
            Some(gate) => {
                let [up, gate] = Projection::forward_all([(&self.up, noise(4)), (gate, noise(5))], &normed);
                self.down.forward_gated(config.feed_forward, gate, up, noise(6))
            }
        }
    }
}

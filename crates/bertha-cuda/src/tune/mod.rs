//! Choosing tactics by timing them on the card.
//!
//! Each linear layer of the model is timed by itself in each bucket of tokens, with each candidate that the cache has no
//! time for: all layers of one kind in a row, each with its own weights, on a session's memory. The fastest few are then
//! tried in place, in the whole model: what is fast alone may hold up its neighbours, so only what shortens a run is kept.

mod cache;

use std::collections::BTreeSet;
use std::sync::Arc;

use bertha_compile::{StepTactics, TacticTable};

pub use cache::{CardKey, TimingCache};

use crate::driver::Device;
use crate::kernels::gemm::{self, layer_name};
use crate::kernels::{KernelSpec, Launch, Rows, Setting, Tactic, buckets};
use crate::model::CudaModel;
use crate::plan::{CudaPlan, PlanError};
use crate::program::{CudaStep, Input, Linear, Place, Program};
use crate::session::{CudaSession, RaggedInputs};

/// Candidates of a layer that are tried in place, the fastest alone first: so many at most, none that alone is slower than the
/// fastest by more than this factor.
const TRIED: usize = 3;
const NEAR: f64 = 1.1;
/// Layers that are fewer than others of their size by this factor are not timed: they follow those.
const MINORITY: usize = 4;
/// By how much a whole run must become shorter for another tactic; less is noise.
const GAIN: f64 = 0.995;

/// The layers of a program that are alike, and a setting.
struct Group {
    layer: String,
    setting: Setting,
    /// Indices of the steps.
    steps: Vec<usize>,
}

impl Group {
    /// By what choices name the bucket.
    fn tokens(&self) -> usize {
        self.setting.rows_to_choose_by(Rows::Tokens)
    }

    /// Features of its layers' output and input.
    fn size(&self, program: &Program) -> Option<(usize, usize)> {
        let linear = linear(program, *self.steps.first()?)?;
        Some((linear.n, linear.k))
    }

    /// The group of the same bucket whose tactic these layers take: of the same size (a last layer differs from the others by
    /// what it writes), and of so many more steps that these do not matter.
    fn leader<'a>(&self, program: &Program, all: &'a [Group]) -> Option<&'a Group> {
        all.iter().find(|other| {
            other.setting == self.setting
                && other.size(program) == self.size(program)
                && other.steps.len() >= MINORITY * self.steps.len()
        })
    }

    /// What its layers could run on and is worth timing, the rule's choice first.
    fn candidates(&self, program: &Program) -> Vec<Tactic> {
        let first = self.steps.first().and_then(|step| linear(program, *step));
        first.map_or_else(Vec::new, |linear| Tactic::candidates(program.storage, linear, &self.setting))
    }

    /// The candidates with their times in microseconds, the fastest first; those that were not timed are last.
    fn by_time(&self, program: &Program, cache: &TimingCache, card: &CardKey) -> Vec<(Tactic, f64)> {
        let time = |tactic: Tactic| {
            (tactic, cache.get(card, &self.layer, self.tokens(), tactic).unwrap_or(f64::INFINITY))
        };
        let mut timed: Vec<(Tactic, f64)> = self.candidates(program).into_iter().map(time).collect();
        timed.sort_by(|a, b| a.1.total_cmp(&b.1));
        timed
    }

    /// The candidates worth trying in place, the fastest alone first.
    fn to_try(&self, program: &Program, cache: &TimingCache, card: &CardKey) -> Vec<Tactic> {
        let timed = self.by_time(program, cache, card);
        let fastest = timed.first().map_or(f64::INFINITY, |(_, us)| *us);
        let near = timed.into_iter().take(TRIED).filter(|(_, us)| *us <= fastest * NEAR);
        near.map(|(tactic, _)| tactic).collect()
    }
}

/// Groups of layers over tokens by what they are, in each bucket of tokens.
fn groups(program: &Program, base: Setting) -> Vec<Group> {
    // What comes of a dense graph has the rows of its inputs' shapes, and no buckets.
    if program.dense.is_some() {
        return Vec::new();
    }
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for (step, linear) in linears(program) {
        let layer = layer_name(program.storage, linear);
        match kinds.iter_mut().find(|(other, _)| *other == layer) {
            Some((_, steps)) => steps.push(step),
            None => kinds.push((layer, vec![step])),
        }
    }
    let length = length(program);
    let settings = buckets::token_buckets()
        .map(|tokens| base.for_batch(tokens, tokens.div_ceil(length), length.min(tokens)));
    let of_setting = |setting: Setting| {
        let group = move |(layer, steps): &(String, Vec<usize>)| Group {
            layer: layer.clone(),
            setting,
            steps: steps.clone(),
        };
        kinds.iter().map(group)
    };
    settings.flat_map(of_setting).collect()
}

fn linears(program: &Program) -> impl Iterator<Item = (usize, &Linear)> {
    (0..program.steps.len()).filter_map(|step| Some((step, linear(program, step)?)))
}

/// The step, if it is a linear layer over tokens.
fn linear(program: &Program, step: usize) -> Option<&Linear> {
    match &program.steps.get(step)?.step {
        CudaStep::Linear(linear) if linear.rows == Rows::Tokens => Some(linear),
        _ => None,
    }
}

/// The tactics of the program's linear layers over tokens, a table for each bucket, with the times that are known for the
/// card, or else the rules' estimates.
pub(crate) fn describe(
    program: &Program,
    base: Setting,
    known: Option<(&TimingCache, &CardKey)>,
) -> Vec<TacticTable> {
    let mut tables: Vec<TacticTable> = Vec::new();
    for group in groups(program, base) {
        let Some(linear) = group.steps.first().and_then(|step| linear(program, *step)) else { continue };
        let tokens = group.setting.tokens;
        let candidates = group.candidates(program);
        let rule = candidates.first().copied();
        let chosen = program.tactics.get(program.storage, linear, &group.setting).or(rule);
        let tactic = |tactic: &Tactic| {
            let us = known.and_then(|(cache, card)| cache.get(card, &group.layer, group.tokens(), *tactic));
            let estimate = || tactic.estimate(program.storage, linear, &group.setting);
            bertha_compile::Tactic {
                kernel: tactic.to_string(),
                seconds: us.map(|us| us * 1e-6).or_else(estimate),
                estimate: us.is_none(),
                chosen: Some(*tactic) == chosen,
                note: String::new(),
            }
        };
        let step = StepTactics {
            step: group.layer.clone(),
            nodes: group.steps.iter().map(|step| program.steps[*step].node.clone()).collect(),
            flops: 2.0 * (tokens * linear.n * linear.k) as f64,
            tactics: candidates.iter().map(tactic).collect(),
        };
        let batch = format!("batches of up to {tokens} tokens");
        match tables.last_mut().filter(|table| table.batch == batch) {
            Some(table) => table.steps.push(step),
            None => tables.push(TacticTable { target: base.arch.to_string(), batch, steps: vec![step] }),
        }
    }
    tables
}

/// The kernels that [`tune`] launches besides those of the rule: all candidates of the layers that have to be timed, and
/// those that are tried in place of the others.
pub(crate) fn kernels(
    program: &Program,
    base: Setting,
    (cache, card): (&TimingCache, &CardKey),
) -> BTreeSet<KernelSpec> {
    let mut kernels = BTreeSet::new();
    let all = groups(program, base);
    for group in all.iter().filter(|group| group.leader(program, &all).is_none()) {
        let is_timed = group.by_time(program, cache, card).iter().all(|(_, us)| us.is_finite());
        let needed = if is_timed { group.to_try(program, cache, card) } else { group.candidates(program) };
        for tactic in needed {
            kernels
                .extend(launches(program, group, tactic).into_iter().flatten().map(|launch| launch.kernel));
        }
    }
    kernels
}

/// Takes tactics that were chosen before, each for a layer and the tokens of a bucket.
///
/// # Errors
/// The first choice that the program has no such layer for, or that cannot be launched.
pub(crate) fn take(
    program: &mut Program,
    base: Setting,
    choices: impl Iterator<Item = (String, usize, Tactic)>,
) -> Result<(), String> {
    let mut choices = choices.peekable();
    if choices.peek().is_none() {
        return Ok(());
    }
    let groups = groups(program, base);
    for (layer, tokens, tactic) in choices {
        let is_meant = |group: &&Group| group.layer == layer && group.tokens() == tokens;
        let found = groups.iter().find(is_meant).and_then(|group| launches(program, group, tactic));
        if found.is_none() {
            return Err(format!("no layer `{layer}` at {tokens} tokens runs with {tactic}"));
        }
        program.tactics.choose(&layer, tokens, tactic);
    }
    Ok(())
}

/// The launches of a group's layers with a tactic.
fn launches(program: &Program, group: &Group, tactic: Tactic) -> Option<Vec<Launch>> {
    let launch = |step: &usize| tactic.launch(program.storage, linear(program, *step)?, &group.setting);
    group.steps.iter().map(launch).collect()
}

/// Tokens of a sequence in the batches that are timed: 128, where the model takes so many.
fn length(program: &Program) -> usize {
    let longest = program.steps.iter().filter_map(|step| match &step.step {
        CudaStep::Attention(attention) => attention.relative.map(|relative| relative.longest),
        _ => None,
    });
    longest.fold(128, usize::min).max(1)
}

/// A batch that fills a bucket.
struct Batch {
    inputs: [Vec<i32>; 3],
    cu_seqlens: Vec<i32>,
}

impl Batch {
    fn new(program: &Program, tokens: usize) -> Self {
        let mut rows = [i32::MAX as usize; 3];
        for step in &program.steps {
            let CudaStep::Embedding(embedding) = &step.step else { continue };
            for lookup in &embedding.lookups {
                let place = program.tensors[lookup.ids].place;
                if let Some(at) = INPUTS.iter().position(|input| place == Place::Input(*input)) {
                    rows[at] = rows[at].min(lookup.rows);
                }
            }
        }
        // Ids all over the tables, so that no two tokens are alike.
        let inputs = rows.map(|rows| (0..tokens).map(|token| (token * 7919 % rows.max(1)) as i32).collect());
        let starts = (0..tokens).step_by(length(program)).chain([tokens]);
        Batch { inputs, cu_seqlens: starts.map(|start| start as i32).collect() }
    }

    fn inputs(&self) -> RaggedInputs<'_> {
        let [input_ids, token_type_ids, position_ids] = &self.inputs;
        RaggedInputs { input_ids, token_type_ids, position_ids, cu_seqlens: &self.cu_seqlens }
    }
}

const INPUTS: [Input; 3] = [Input::InputIds, Input::TokenTypeIds, Input::PositionIds];

/// Times what the cache lacks, and chooses tactics for a plan that holds the kernels of [`kernels`]. What is chosen may need
/// kernels besides those.
///
/// # Errors
/// When the card refuses. What was timed before stays in the cache.
pub(crate) fn tune(
    device: &Device,
    plan: Arc<CudaPlan>,
    cache: &mut TimingCache,
) -> Result<gemm::Tactics, PlanError> {
    let card = CardKey::of(device)?;
    let model = Arc::new(CudaModel::new(device.clone(), plan)?);
    let mut session = model.session()?;
    let mut program = model.program().clone();
    let all = groups(&program, model.base_setting());
    let (followers, mut timed): (Vec<&Group>, Vec<&Group>) =
        all.iter().partition(|group| group.leader(&program, &all).is_some());
    while !timed.is_empty() {
        // The groups of one bucket follow each other.
        let setting = timed[0].setting;
        let others = timed.iter().position(|group| group.setting != setting).unwrap_or(timed.len());
        let bucket: Vec<&Group> = timed.drain(..others).collect();
        let batch = Batch::new(&program, setting.tokens);
        let mut timer = Timer { session: &mut session, batch: batch.inputs(), card: &card, cache };
        timer.alone(&program, &bucket)?;
        timer.in_place(&mut program, &bucket)?;
    }
    for group in followers {
        follow(&mut program, group, &all);
    }
    Ok(program.tactics)
}

/// Gives a group its leader's tactic, where that is another than the rule's and its own layers can run on it.
fn follow(program: &mut Program, group: &Group, all: &[Group]) {
    let Some(leader) = group.leader(program, all) else { return };
    let Some(layer) = leader.steps.first().and_then(|step| linear(program, *step)) else { return };
    let Some(tactic) = program.tactics.get(program.storage, layer, &leader.setting) else { return };
    if launches(program, group, tactic).is_some() {
        program.tactics.choose(&group.layer, group.tokens(), tactic);
    }
}

struct Timer<'a> {
    session: &'a mut CudaSession,
    batch: RaggedInputs<'a>,
    card: &'a CardKey,
    cache: &'a mut TimingCache,
}

impl Timer<'_> {
    /// Times each candidate that the cache has no time for.
    fn alone(&mut self, program: &Program, bucket: &[&Group]) -> Result<(), PlanError> {
        for group in bucket {
            let tokens = group.tokens();
            let timed = group.by_time(program, self.cache, self.card);
            let new: Vec<Tactic> =
                timed.iter().filter(|(_, us)| us.is_infinite()).map(|(tactic, _)| *tactic).collect();
            if timed.len() < 2 || new.is_empty() {
                continue;
            }
            // What was timed before has written over the tensors.
            self.session.settle(&self.batch)?;
            for tactic in new {
                let Some(launches) = launches(program, group, tactic) else { continue };
                let seconds =
                    self.session.rehearse(&self.batch, &launches)?.seconds()? / launches.len() as f64;
                tracing::debug!("{} at {tokens} tokens, {tactic}: {:.2} us", group.layer, seconds * 1e6);
                self.cache.put(self.card, &group.layer, tokens, (tactic, seconds * 1e6));
            }
        }
        Ok(())
    }

    /// Tries the fastest candidates of each layer in the whole model, and keeps what makes a run shorter.
    fn in_place(&mut self, program: &mut Program, bucket: &[&Group]) -> Result<(), PlanError> {
        let Some(setting) = bucket.first().map(|group| group.setting) else { return Ok(()) };
        if bucket.iter().all(|group| group.candidates(program).len() < 2) {
            return Ok(());
        }
        self.session.settle(&self.batch)?;
        let session: &CudaSession = self.session;
        let run = |program: &Program| session.rehearse(&self.batch, &program.launches(&setting));
        let tokens = setting.rows_to_choose_by(Rows::Tokens);
        let rules = program.tactics.clone();
        let by_rule = run(program)?;
        let mut by_time = None;
        for group in bucket {
            let rule = group.candidates(program).first().copied();
            for tactic in group.to_try(program, self.cache, self.card) {
                if Some(tactic) == rule {
                    continue;
                }
                let before = program.tactics.clone();
                program.tactics.choose(&group.layer, tokens, tactic);
                let other = run(program)?;
                let [best, seconds] = by_time.as_ref().unwrap_or(&by_rule).against(&other)?;
                if seconds < best * GAIN {
                    by_time = Some(other);
                } else {
                    program.tactics = before;
                }
            }
        }
        if let Some(by_time) = by_time {
            let [by_rule, by_time] = by_rule.against(&by_time)?.map(|seconds| seconds * 1e6);
            tracing::info!("{tokens} tokens: {by_rule:.1} us by rule, {by_time:.1} us with tactics by time");
            // What was gained step by step may have been noise.
            if by_time >= by_rule * GAIN {
                program.tactics = rules;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

use super::*;
use crate::arch::Arch;
use crate::models::EncoderConfig;
use crate::program::lower;
use bertha_compile::Precision;

fn program(precision: Precision, arch: Arch) -> Program {
    let mut config = EncoderConfig::named("minilm-l6").unwrap();
    (config.layers, config.vocabulary) = (2, 50);
    let model = bertha_compile::optimize_model(&config.build(1).unwrap()).unwrap().0;
    lower(&model.graph, precision, arch).unwrap()
}

#[test]
fn every_candidate_can_be_launched_for_every_layer_of_its_group() {
    for arch in Arch::ALL {
        for precision in [Precision::F32, Precision::F16] {
            let program = program(precision, arch);
            for group in groups(&program, Setting::typical(arch)) {
                for tactic in &group.candidates(&program) {
                    let launches = launches(&program, &group, *tactic).unwrap();
                    for launch in launches {
                        let fits = launch.config.shared_bytes as usize <= arch.shared_bytes();
                        assert!(fits, "{arch} {} {tactic}", group.layer);
                    }
                }
            }
        }
    }
}

#[test]
fn without_choices_the_rule_decides_and_is_described_first() {
    let program = program(Precision::F16, Arch::Sm90a);
    let described = describe(&program, Setting::typical(Arch::Sm90a), None);
    assert_eq!(described.len(), buckets::token_buckets().count());
    for step in described.iter().flat_map(|table| &table.steps) {
        assert!(step.tactics[0].chosen && step.tactics[1..].iter().all(|tactic| !tactic.chosen));
        assert!(step.tactics.iter().all(|tactic| tactic.estimate && tactic.seconds != Some(0.0)));
    }
    let many = &described[described.len() - 1].steps;
    assert!(described.iter().any(|table| table.steps.iter().any(|step| step.tactics.len() > 1)));
    assert!(many.iter().all(|step| step.tactics[0].seconds > Some(1e-6)), "{many:?}");
}

#[test]
fn a_choice_is_launched_in_its_bucket_and_nowhere_else() {
    let mut program = program(Precision::F16, Arch::Sm90a);
    let base = Setting::typical(Arch::Sm90a);
    let group =
        groups(&program, base).into_iter().find(|group| group.candidates(&program).len() > 1).unwrap();
    let other = group.candidates(&program)[1];
    let kernels = |program: &Program, setting: &Setting| -> Vec<String> {
        group.steps.iter().map(|step| program.launches(setting)[*step].kernel.to_string()).collect()
    };
    let by_rule = kernels(&program, &group.setting);
    program.tactics.choose(&group.layer, group.setting.tokens, other);
    let chosen: Vec<String> =
        launches(&program, &group, other).unwrap().iter().map(|launch| launch.kernel.to_string()).collect();
    assert_eq!(kernels(&program, &group.setting), chosen);
    assert_ne!(chosen, by_rule);
    let elsewhere = base.for_batch(8448, 66, 128);
    let before = kernels(&program, &elsewhere);
    program.tactics = gemm::Tactics::default();
    assert_eq!(kernels(&program, &elsewhere), before);
}

#[test]
fn a_batch_fills_its_bucket_with_ids_that_all_tables_have() {
    let program = program(Precision::F16, Arch::Sm90a);
    for tokens in [32, 96, 384] {
        let batch = Batch::new(&program, tokens);
        assert_eq!(batch.inputs().check(&program), Ok(()));
        assert_eq!(batch.inputs().tokens(), tokens);
    }
}

#[test]
fn a_last_layer_that_writes_something_else_follows_the_others() {
    let mut config = EncoderConfig::named("minilm-l6").unwrap();
    (config.layers, config.vocabulary) = (6, 50);
    let model = bertha_compile::optimize_model(&config.build(1).unwrap()).unwrap().0;
    let mut program = lower(&model.graph, Precision::F16, Arch::Sm90a).unwrap();
    let all = groups(&program, Setting::typical(Arch::Sm90a));
    let followers: Vec<&Group> = all.iter().filter(|group| group.leader(&program, &all).is_some()).collect();
    assert!(!followers.is_empty());
    for group in followers {
        let leader = group.leader(&program, &all).unwrap();
        assert!(leader.leader(&program, &all).is_none() && group.steps.len() == 1 && leader.steps.len() == 5);
        let Some(other) = leader.candidates(&program).get(1).copied() else { continue };
        program.tactics.choose(&leader.layer, leader.tokens(), other);
        follow(&mut program, group, &all);
        let step = linear(&program, group.steps[0]).unwrap();
        let chosen = program.tactics.get(program.storage, step, &group.setting);
        assert_eq!(chosen, launches(&program, group, other).map(|_| other));
    }
}

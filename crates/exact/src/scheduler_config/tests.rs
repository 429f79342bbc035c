use super::*;
use crate::audit::{Start, audit};
use crate::spectrum::Spectrum;
use crate::test::assert_close;

/// A configuration of `class` with these further keys, without clipping unless they say so.
fn config(class: &str, keys: &str) -> Result<SchedulerConfig, ConfigError> {
    let clip = if keys.contains("clip_sample") {
        ""
    } else {
        r#""clip_sample": false,"#
    };
    let separator = if keys.is_empty() { "" } else { "," };
    let text = format!(r#"{{{clip}"_class_name": "{class}", "_diffusers_version": "0.42.1"{separator}{keys}}}"#);
    SchedulerConfig::from_json(&text)
}

fn ddim(keys: &str) -> SchedulerConfig {
    config("DDIMScheduler", keys).unwrap()
}

fn ddpm(keys: &str) -> SchedulerConfig {
    config("DDPMScheduler", keys).unwrap()
}

fn output_std(plan: &Plan) -> f64 {
    audit(plan, &Spectrum::from_std(0.5).unwrap(), Start::Prior)
        .unwrap()
        .output_std[0]
}

#[test]
fn a_plain_configuration_needs_no_warning() {
    let made = ddim("").plan(10, None).unwrap();
    assert_eq!(made.warnings, []);
    assert_eq!((output_std(&made.plan) * 1e4).round(), 3741.0);
    let made = ddpm(r#""variance_type": "fixed_small""#).plan(10, None).unwrap();
    assert_eq!(made.warnings, []);
    assert_eq!((output_std(&made.plan) * 1e3).round(), 333.0);
    // eta = 1 is ancestral sampling.
    let ancestral = ddim("").plan(10, Some(1.0)).unwrap();
    assert_close(output_std(&ancestral.plan), output_std(&made.plan), 1e-12);
}

#[test]
fn ddim_goes_to_the_next_timestep_of_its_own_list() {
    // diffusers takes t - 1000 // n for the timestep before.
    let wrong = |spacing: &str| {
        let config = ddim(&format!(r#""timestep_spacing": "{spacing}""#));
        let wrong = |steps| {
            let warnings = config.plan(steps, None).unwrap().warnings;
            warnings
                .iter()
                .any(|warning| matches!(warning, Warning::WrongPreviousTimestep { .. }))
        };
        (1..=1000).filter(|&steps| wrong(steps)).count()
    };
    assert_eq!(wrong("leading"), 0);
    // Of 1000 step counts only the 16 divisors of 1000 come out right.
    assert_eq!(wrong("trailing"), 984);
    assert_eq!(wrong("linspace"), 998);
    let plan = ddim(r#""timestep_spacing": "linspace""#).plan(10, None).unwrap();
    let expected = Warning::WrongPreviousTimestep {
        ratio: 100,
        wrong: 9,
        from: 999,
        taken: 899,
        right: 888,
    };
    assert_eq!(plan.warnings, [expected]);
    let schedule = ddim("").schedule;
    assert_close(plan.plan.steps[0].to, schedule.sigma(888), 1e-12);
}

#[test]
fn trailing_makes_as_many_timesteps_as_asked_for() {
    let config = ddim(r#""timestep_spacing": "trailing""#);
    let extra: Vec<usize> = (1..=1000)
        .filter(|&steps| {
            let made = config.plan(steps, None).unwrap();
            assert_eq!(made.plan.network_evaluations(), steps);
            made.warnings.contains(&Warning::ExtraTimestep {
                steps,
                made: steps + 1,
                last: -1,
            })
        })
        .collect();
    // s = DDIMScheduler(timestep_spacing="trailing")                                  (diffusers 0.42.1)
    // for n in range(1, 1001): s.set_timesteps(n); if len(s.timesteps) != n: print(n, s.timesteps[-1])
    assert_eq!(extra.len(), 62);
    assert_eq!(extra[..4], [61, 103, 121, 122]);
}

#[test]
fn fixed_large_log_is_a_number() {
    let made = ddpm(r#""variance_type": "fixed_large_log""#).plan(10, None).unwrap();
    assert_eq!(made.warnings, [Warning::NotANumber]);
    assert_eq!(
        made.plan,
        ddpm(r#""variance_type": "fixed_large""#).plan(10, None).unwrap().plan
    );
    assert_eq!((output_std(&made.plan) * 1e3).round(), 589.0);
}

#[test]
fn the_last_step_adds_no_noise() {
    let made = ddpm(r#""variance_type": "fixed_large", "timestep_spacing": "trailing""#)
        .plan(10, None)
        .unwrap();
    assert_eq!(made.plan.steps[9].noise, 0.0);
    // beta from timestep 99 to the end: 1 - abar_99, with s = DDPMScheduler(): 1 - s.alphas_cumprod[99].
    let &[Warning::NoiseAtLastStep { timestep: 99, std }] = &made.warnings[..] else {
        panic!("{:?}", made.warnings)
    };
    assert_close(std, ddpm("").schedule.one_minus_alpha_bar(99).sqrt(), 1e-12);
    assert_close(std * std, 0.1029820442199707, 1e-5);
    // With leading spacing the last timestep is 0 unless it is shifted.
    assert_eq!(
        ddpm(r#""variance_type": "fixed_large""#)
            .plan(10, None)
            .unwrap()
            .warnings,
        []
    );
    let shifted = ddpm(r#""variance_type": "fixed_large", "steps_offset": 1"#)
        .plan(10, None)
        .unwrap();
    assert!(matches!(
        shifted.warnings[..],
        [Warning::NoiseAtLastStep { timestep: 1, .. }]
    ));
}

#[test]
fn an_offset_that_does_not_fit_is_cut() {
    for made in [
        ddim(r#""steps_offset": 1"#).plan(1000, None).unwrap(),
        ddpm(r#""steps_offset": 1"#).plan(1000, None).unwrap(),
    ] {
        assert!(
            made.warnings.contains(&Warning::OffsetPastEnd { offset: 1, used: 0 }),
            "{:?}",
            made.warnings
        );
        assert_eq!(made.plan.network_evaluations(), 1000);
    }
    // An offset of a whole step or more sends DDIM's last step to a timestep instead of the end.
    let made = ddim(r#""steps_offset": 5"#).plan(250, None).unwrap();
    let expected = Warning::WrongPreviousTimestep {
        ratio: 4,
        wrong: 1,
        from: 5,
        taken: 1,
        right: -1,
    };
    assert!(made.warnings.contains(&expected), "{:?}", made.warnings);
}

#[test]
fn one_linspace_step_starts_from_noise() {
    let made = ddim(r#""timestep_spacing": "linspace""#).plan(1, None).unwrap();
    assert_eq!(made.warnings, [Warning::SingleStepFromZero { from: 999 }]);
    assert_close(made.plan.steps[0].from, ddim("").schedule.sigma(999), 1e-12);
}

#[test]
fn one_leading_step_starts_where_there_is_no_noise() {
    let made = ddim("").plan(1, None).unwrap();
    assert_eq!(made.warnings, [Warning::SingleStepFromStart { timestep: 0 }]);
    // The step takes the estimate at sigma 0.01: of a start of standard deviation 1 nearly everything stays.
    assert!(output_std(&made.plan) > 0.99);
    let shifted = ddpm(r#""variance_type": "fixed_small", "steps_offset": 1"#)
        .plan(1, None)
        .unwrap();
    assert_eq!(shifted.warnings, [Warning::SingleStepFromStart { timestep: 1 }]);
    let dpm_solver = config("DPMSolverMultistepScheduler", r#""timestep_spacing": "leading""#).unwrap();
    assert_eq!(dpm_solver.plan(1, None).unwrap().warnings, []);
}

#[test]
fn full_noise_from_zero_terminal_snr_is_a_number() {
    let keys = |spacing: &str, ends_clean: bool| {
        format!(
            r#""rescale_betas_zero_snr": true, "prediction_type": "v_prediction", "timestep_spacing": "{spacing}",
            "set_alpha_to_one": {ends_clean}"#
        )
    };
    let warned = |spacing, ends_clean, steps, eta| {
        let made = ddim(&keys(spacing, ends_clean)).plan(steps, Some(eta)).unwrap();
        assert!(output_std(&made.plan).is_finite());
        made.warnings.contains(&Warning::RootOfRounding)
    };
    assert!(warned("trailing", true, 10, 1.0));
    assert!(warned("trailing", false, 1, 1.0));
    // A single step to the clean data, less noise, or a start below the last timestep, take the root of nothing.
    assert!(!warned("trailing", true, 1, 1.0));
    assert!(!warned("trailing", true, 10, 0.5));
    assert!(!warned("leading", true, 10, 1.0));
}

#[test]
fn ending_at_the_first_level_hands_out_the_scaled_state() {
    let stable_diffusion = r#""beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "set_alpha_to_one": false, "steps_offset": 1"#;
    let made = ddim(stable_diffusion).plan(10, None).unwrap();
    let schedule = ddim(stable_diffusion).schedule;
    assert_eq!(made.plan.steps[9].to, schedule.sigma(0));
    assert_close(made.plan.output_scale, schedule.alpha_bar(0).sqrt(), 1e-12);
    assert_eq!(made.warnings, []);
    let idle = ddim(r#""set_alpha_to_one": false"#).plan(10, None).unwrap();
    assert_eq!(idle.warnings, [Warning::LastStepDoesNothing]);
    assert_eq!(idle.plan.network_evaluations(), 9);
}

#[test]
fn clipping_is_said() {
    let made = ddim(r#""clip_sample": true"#).plan(10, None).unwrap();
    assert_eq!(made.plan.clip, Some(1.0));
    assert_eq!(
        made.warnings,
        [Warning::ClipsEstimate {
            range: 1.0,
            keeps_noise: true
        }]
    );
    // It is the default.
    let default = SchedulerConfig::from_json(r#"{"_class_name": "DDPMScheduler", "clip_sample_range": 2.5}"#).unwrap();
    assert_eq!(default.clip, Some(2.5));
    assert_eq!(
        default.warnings,
        [Warning::ClipsEstimate {
            range: 2.5,
            keeps_noise: false
        }]
    );
}

#[test]
fn zero_terminal_snr_needs_another_prediction() {
    let keys = |prediction: &str| format!(r#""rescale_betas_zero_snr": true, "prediction_type": "{prediction}""#);
    assert!(matches!(
        config("DDIMScheduler", &keys("epsilon")),
        Err(ConfigError::Prediction(PredictionError::EpsilonAtInfiniteNoise))
    ));
    let velocity = config(
        "DDIMScheduler",
        &format!(r#"{}, "timestep_spacing": "trailing""#, keys("v_prediction")),
    );
    let made = velocity.unwrap().plan(10, None).unwrap();
    assert_eq!((made.plan.steps[0].from, made.plan.prior_std), (f64::INFINITY, 1.0));
    assert!(output_std(&made.plan).is_finite());
}

#[test]
fn dpm_solver_with_karras_levels() {
    let keys = r#""use_karras_sigmas": true, "lambda_min_clipped": -Infinity, "solver_order": 2"#;
    let made = config("DPMSolverMultistepScheduler", keys)
        .unwrap()
        .plan(10, None)
        .unwrap();
    assert_eq!(made.warnings, [Warning::RoundedConditioning]);
    let schedule = ddim("").schedule;
    let levels = Levels::karras(schedule.sigma_min(), schedule.sigma_max(), 7.0, 10).unwrap();
    let expected = Sampler::DpmSolverPlusPlus2M
        .plan(Process::VariancePreserving, &levels)
        .unwrap();
    assert_eq!(made.plan, expected);
    // s = DPMSolverMultistepScheduler(timestep_spacing=...); s.set_timesteps(4); print(s.timesteps.tolist())
    for (spacing, timesteps) in [
        ("linspace", [999, 749, 500, 250]),
        ("leading", [800, 600, 400, 200]),
        ("trailing", [999, 749, 499, 249]),
    ] {
        let config = config(
            "DPMSolverMultistepScheduler",
            &format!(r#""timestep_spacing": "{spacing}""#),
        )
        .unwrap();
        assert_eq!(config.timesteps(4).unwrap(), timesteps);
    }
    let first_order = config("DPMSolverMultistepScheduler", r#""solver_order": 1"#)
        .unwrap()
        .plan(5, None)
        .unwrap();
    assert!(first_order.plan.steps.iter().all(|step| step.previous_denoised == 0.0));
    let rescaled = r#""rescale_betas_zero_snr": true, "prediction_type": "v_prediction""#;
    let made = config("DPMSolverMultistepScheduler", rescaled)
        .unwrap()
        .plan(5, None)
        .unwrap();
    assert_eq!(made.warnings, [Warning::TerminalLevelReplaced]);
}

#[test]
fn keys_without_effect_are_named() {
    for (class, keys, key) in [
        ("DDIMScheduler", r#""variance_type": "fixed_small""#, "variance_type"),
        ("DDPMScheduler", r#""set_alpha_to_one": false"#, "set_alpha_to_one"),
        (
            "DDIMScheduler",
            r#""timestep_spacing": "trailing", "steps_offset": 1"#,
            "steps_offset",
        ),
        (
            "DDIMScheduler",
            r#""trained_betas": [0.1, 0.2], "num_train_timesteps": 2, "beta_end": 0.5"#,
            "beta_end",
        ),
        ("DDIMScheduler", r#""sample_max_value": 1.5"#, "sample_max_value"),
        ("DPMSolverMultistepScheduler", r#""clip_sample": true"#, "clip_sample"),
        (
            "DPMSolverMultistepScheduler",
            r#""euler_at_final": true"#,
            "euler_at_final",
        ),
        ("DDIMScheduler", r#""use_karras_sigmas": true"#, "use_karras_sigmas"),
    ] {
        assert_eq!(
            config(class, keys).unwrap().warnings,
            [Warning::KeyWithoutEffect { key }],
            "{keys}"
        );
    }
    let sigmoid = ddim(r#""beta_schedule": "sigmoid""#);
    assert!(matches!(sigmoid.warnings[..], [Warning::ScheduleRefused { .. }]));
    assert_eq!(ddpm(r#""beta_schedule": "laplace""#).warnings, []);
}

#[test]
fn what_would_change_the_result_is_refused() {
    for (class, keys, part) in [
        ("DDIMScheduler", r#""snr_shift": 3.0"#, "snr_shift"),
        ("DDIMScheduler", r#""thresholding": true"#, "thresholding"),
        ("DDIMScheduler", r#""beta_schedule": "exponential""#, "exponential"),
        (
            "DDIMScheduler",
            r#""prediction_type": "flow_prediction""#,
            "flow_prediction",
        ),
        ("DDIMScheduler", r#""timestep_spacing": "spread""#, "spread"),
        ("DDIMScheduler", r#""trained_betas": [0.1]"#, "1 betas"),
        ("DDIMScheduler", r#""beta_end": 1.5"#, "beta"),
        ("DDIMScheduler", r#""num_train_timesteps": 0"#, "at least one"),
        ("DDIMScheduler", r#""num_train_timesteps": 9000000000"#, "million"),
        (
            "DDIMScheduler",
            r#""clip_sample": true, "clip_sample_range": -1"#,
            "clip_sample_range",
        ),
        ("DDPMScheduler", r#""variance_type": "learned_range""#, "learned_range"),
        (
            "DPMSolverMultistepScheduler",
            r#""algorithm_type": "sde-dpmsolver++""#,
            "sde-dpmsolver++",
        ),
        ("DPMSolverMultistepScheduler", r#""solver_order": 3"#, "solver_order"),
        (
            "DPMSolverMultistepScheduler",
            r#""final_sigmas_type": "sigma_min""#,
            "final_sigmas_type",
        ),
        (
            "DPMSolverMultistepScheduler",
            r#""use_beta_sigmas": true"#,
            "use_beta_sigmas",
        ),
        (
            "DPMSolverMultistepScheduler",
            r#""lambda_min_clipped": -5.1"#,
            "lambda_min_clipped",
        ),
        ("PNDMScheduler", "", "PNDMScheduler"),
    ] {
        let error = config(class, keys).unwrap_err().to_string();
        assert!(error.contains(part), "{keys}: {error}");
    }
    assert!(matches!(SchedulerConfig::from_json("{}"), Err(ConfigError::NoClass)));
    assert!(matches!(SchedulerConfig::from_json("[1"), Err(ConfigError::Json(_))));
    assert!(matches!(ddpm("").plan(10, Some(0.5)), Err(ConfigError::EtaWithoutDdim)));
    assert!(matches!(
        ddim("").plan(10, Some(1.5)),
        Err(ConfigError::Sampler(SamplerError::EtaOutOfRange(_)))
    ));
    assert!(matches!(
        ddim("").plan(1001, None),
        Err(ConfigError::Spacing(SpacingError::TooManySteps { .. }))
    ));
    assert!(matches!(
        ddim("").plan(0, None),
        Err(ConfigError::Spacing(SpacingError::NoSteps))
    ));
}

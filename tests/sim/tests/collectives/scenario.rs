//! Schedules as data, which are written as one line of text and made smaller while they still fail.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// A schedule as data. Whatever it leaves open follows from its seed.
pub(crate) trait Scenario: Clone + Serialize + DeserializeOwned {
    /// Scenarios with something left out or made simpler, the boldest first.
    fn simpler(&self) -> Vec<Self>;

    /// The same with another seed: another order of events.
    fn reseeded(&self, seed: u64) -> Self;

    /// How large it is, in words.
    fn size(&self) -> String;
}

/// So many schedules are tried to make one smaller.
const SHRINK_RUNS: usize = 4000;
/// Whatever is left out changes the order of all that follows, so that the mistake may take another one to show.
const SEEDS_PER_STEP: u64 = 8;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether something panics, which is not reported.
pub(crate) fn fails(play: impl FnOnce()) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                report(info);
            }
        }));
    });
    QUIET.set(true);
    let failed = catch_unwind(AssertUnwindSafe(play)).is_err();
    QUIET.set(false);
    failed
}

/// The smallest scenario found that fails as this one does, by leaving out whatever is not needed.
pub(crate) fn shrink<S: Scenario>(scenario: &S, play: &dyn Fn(&S)) -> S {
    let mut smallest = scenario.clone();
    let mut runs = 0;
    'smaller: loop {
        for simpler in smallest.simpler() {
            for seed in 0..SEEDS_PER_STEP {
                let candidate = if seed == 0 { simpler.clone() } else { simpler.reseeded(seed) };
                runs += 1;
                if fails(|| play(&candidate)) {
                    smallest = candidate;
                    continue 'smaller;
                }
                if runs == SHRINK_RUNS {
                    return smallest;
                }
            }
        }
        return smallest;
    }
}

pub(crate) fn line<S: Scenario>(scenario: &S) -> String {
    serde_json::to_string(scenario).expect("plain data")
}

pub(crate) fn parse<S: Scenario>(line: &str) -> S {
    serde_json::from_str(line).expect("a scenario as it was printed")
}

/// A list with parts left out: all, halves, quarters, and so on down to single elements.
pub(crate) fn with_less<T: Clone>(list: &[T]) -> Vec<Vec<T>> {
    let mut all = Vec::new();
    let mut part = list.len();
    while part > 0 {
        for from in (0..list.len()).step_by(part) {
            let to = (from + part).min(list.len());
            all.push([&list[..from], &list[to..]].concat());
        }
        part /= 2;
    }
    all
}

/// What many schedules came to.
#[cfg_attr(
    feature = "planted-bugs",
    expect(dead_code, reason = "nothing is added up where mistakes are planted")
)]
pub(crate) trait Sum: Default + Send {
    /// Takes in what others came to.
    fn add(&mut self, others: Self);
}

/// Numbers that are counted: a struct, and how they are added up.
macro_rules! counts {
    ($(#[$meta:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, Debug)]
        pub(crate) struct $name {
            $($(#[$of_field])* pub(crate) $field: usize,)+
        }

        impl $crate::scenario::Sum for $name {
            fn add(&mut self, others: $name) {
                $(self.$field += others.$field;)+
            }
        }
    };
}
pub(crate) use counts;

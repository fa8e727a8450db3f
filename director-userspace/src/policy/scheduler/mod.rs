//! Schedulers: how a new flow gets its backend. Pure; a scheduler whose table (a *ring*) is indexed by
//! the hash of the 5-tuple is a file here and a line in the registry below. Any other also needs a
//! [`Placement`] and a case in `director-ebpf/src/schedule.rs`.
//!
//! Configuration, schema, import, export, listings and the ring builder read the registry, and
//! `tests/tests/docs.rs` compares docs/config.md with it, so nothing else names a scheduler.
//! [`lvs`] lists what LVS has, supported here or not.

pub mod lvs;
mod maglev;

use std::net::IpAddr;

use director_common::backend::BackendRef;

/// A scheduler as its file describes it.
pub struct Description {
    /// Its keyword in the configuration, in listings and in JSON.
    pub name: &'static str,
    /// Further keywords that the configuration accepts: LVS's short name, for example.
    pub aliases: &'static [&'static str],
    /// What it does, in a line.
    pub help: &'static str,
    /// LVS's scheduler that places flows like it, or nearly so: what listings and exported rules say.
    pub nearest_lvs: Lvs,
    /// How the data plane finds a new flow's backend.
    pub placement: Placement,
}

/// A scheduler in LVS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lvs {
    /// `ipvsadm -s`.
    pub name: &'static str,
    /// `ipvsadm -b`; empty: none.
    pub flags: &'static str,
}

/// How the data plane finds a new flow's backend.
pub enum Placement {
    /// By a slot of a table, which a builder of this kind fills in userspace.
    Table(fn() -> Box<dyn TableBuilder>),
}

/// A backend that a ring is built over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The table's reference to it.
    pub reference: BackendRef,
    /// What its slots derive from.
    pub address: IpAddr,
    /// Its share.
    pub weight: u16,
}

/// Builds rings, one after another: working memory is kept between them.
pub trait TableBuilder {
    /// Fills `table` with references to `members`, of which each has a weight above 0. The outcome
    /// depends on the members, and not on their order, on time or on earlier tables.
    fn build(&mut self, members: &[Member], table: &mut [BackendRef]);
}

/// Defines [`Scheduler`] with its numbers, which maps keep and which are permanent.
macro_rules! registry {
    ($($variant:ident = $number:literal, $description:path;)+) => {
        /// How a new flow gets its backend.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each is described by its `Description`")]
        pub enum Scheduler {
            $($variant = $number,)+
        }

        impl Scheduler {
            /// Every scheduler.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The scheduler with this number, if this version has it.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// What its file says of it.
            pub const fn description(self) -> &'static Description {
                match self {
                    $(Self::$variant => &$description,)+
                }
            }
        }
    };
}

registry! {
    Maglev = 0, maglev::MAGLEV;
}

impl Scheduler {
    /// Of a service that names none.
    pub const DEFAULT: Self = Self::Maglev;

    /// Its word in the configuration, in listings and in JSON.
    pub const fn as_str(self) -> &'static str {
        self.description().name
    }

    /// The scheduler that places flows as LVS's `name` with these flags does, if there is one.
    pub fn of_lvs(name: &str, flags: &[String]) -> Option<Self> {
        Self::ALL.iter().copied().find(|scheduler| {
            let nearest = scheduler.description().nearest_lvs;
            let has = |flag: &str| flag.is_empty() || flags.iter().any(|own| own == flag);
            nearest.name == name && has(nearest.flags)
        })
    }
}

impl std::fmt::Display for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl serde::Serialize for Scheduler {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Maps keep these numbers: only ever add to this list.
    #[test]
    fn numbers_are_permanent() {
        let numbers: Vec<_> = Scheduler::ALL.iter().map(|s| (*s as u8, s.as_str())).collect();
        assert_eq!(numbers, [(0, "maglev")]);
        for scheduler in Scheduler::ALL {
            assert_eq!(Scheduler::from_number(*scheduler as u8), Some(*scheduler));
        }
    }

    #[test]
    fn no_word_means_two_schedulers() {
        let words = Scheduler::ALL.iter().flat_map(|scheduler| {
            let described = scheduler.description();
            described.aliases.iter().copied().chain([described.name])
        });
        let mut seen = HashSet::new();
        for word in words {
            assert!(seen.insert(word), "{word}");
        }
    }

    /// What every table scheduler promises to the plan, which compares fingerprints of members.
    #[test]
    fn tables_depend_on_the_members_alone() {
        let member = |last: u8, weight| Member {
            reference: BackendRef::new(u32::from(last), 1),
            address: IpAddr::from([10, 0, 0, last]),
            weight,
        };
        let members = [member(1, 1), member(2, 3), member(3, 2)];
        let reversed: Vec<_> = members.iter().rev().copied().collect();
        for scheduler in Scheduler::ALL {
            let Placement::Table(builder) = scheduler.description().placement;
            let table = |builder: &mut Box<dyn TableBuilder>, members: &[Member]| {
                let mut table =
                    vec![BackendRef::NONE; director_common::service::RING_SLOTS as usize];
                builder.build(members, &mut table);
                table
            };
            let mut builder = builder();
            let first = table(&mut builder, &members);
            assert!(first.iter().all(|slot| members.iter().any(|m| m.reference == *slot)));
            let _between = table(&mut builder, &members[..1]);
            assert_eq!(table(&mut builder, &reversed), first, "{scheduler}");
        }
    }
}

//! Enums whose values are words: of the configuration file, or names of errors.

/// An enum each of whose values has one word.
pub(super) trait Word: Copy + 'static {
    /// Every value.
    const WORDS: &[Self];

    /// The word.
    fn word(self) -> &'static str;

    /// Further words for it.
    fn aliases(self) -> &'static [&'static str] {
        &[]
    }
}

impl Word for crate::policy::scheduler::Scheduler {
    const WORDS: &[Self] = Self::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }

    fn aliases(self) -> &'static [&'static str] {
        self.description().aliases
    }
}

/// Defines a [`Word`] with the usual traits; it displays and serializes as its word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::policy::config::words::Word for $name {
            const WORDS: &[Self] = Self::ALL;

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}

/// Implements [`Word`] for enums of the map layout.
macro_rules! layout_words {
    ($($name:ty),+) => {$(
        impl Word for $name {
            const WORDS: &[Self] = Self::ALL;

            fn word(self) -> &'static str {
                self.as_str()
            }
        }
    )+};
}

layout_words!(
    director_common::backend::ForwardMode,
    director_common::flow::Protocol,
    director_common::service::WhenEmpty
);

pub(super) use words;

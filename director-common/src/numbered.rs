//! Enums whose values are numbers in maps, and labels in configuration and output.

/// Defines an enum of permanent numbers and labels: `ALL`, `from_number`, `as_str`; it displays and
/// serializes (feature `serde`) as its label. A new value is one line here, and a compile error
/// wherever values are matched.
macro_rules! numbered {
    (
        $(#[$of_enum:meta])*
        $name:ident { $($(#[$of_variant:meta])* $variant:ident = $number:literal, $label:literal;)+ }
    ) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$of_variant])* $variant = $number,)+
        }

        impl $name {
            /// Every value, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value with this number, if there is one.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its label in configuration, listings and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}

pub(crate) use numbered;

//! Enums that travel as words: one declaration gives the variants, their spelling, their list and both directions of serde.
//! Always a string, in postcard too, so that a variant may move without changing the bytes.

/// Declares such an enum.
macro_rules! string_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal, )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$doc])* $variant, )* }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: [$name; [$( $word ),*].len()] = [$( $name::$variant ),*];

            /// The spelling on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                let known = Self::ALL.into_iter().find(|value| value.as_str() == word);
                known.ok_or_else(|| serde::de::Error::unknown_variant(&word, &[$( $word ),*]))
            }
        }
    };
}

pub(crate) use string_enum;

//! Elements, what they accumulate in, and the operators.

/// An element type. Any bits are a valid element.
pub(super) trait Lane: Copy {
    /// What sums are held in.
    type Acc: Copy;
    /// Into the accumulator, exactly.
    fn widen(self) -> Self::Acc;
    /// Out of it, rounding once.
    fn narrow(acc: Self::Acc) -> Self;
    /// Division by a number of contributors or the sum of their weights; integers truncate toward zero.
    fn divide(acc: Self::Acc, by: f64) -> Self::Acc;
}

/// An associative operator on accumulators.
pub(super) trait Combine<A> {
    fn combine(a: A, b: A) -> A;
}

/// Lanes that a scalar multiplies.
pub(super) trait Multiplies: Lane {
    fn multiply(a: Self::Acc, b: Self::Acc) -> Self::Acc;
}

pub(super) struct Sum;
pub(super) struct Prod;
pub(super) struct Min;
pub(super) struct Max;
pub(super) struct Band;
pub(super) struct Bor;
pub(super) struct Bxor;
pub(super) struct Or;
pub(super) struct And;
pub(super) struct Xor;

macro_rules! combine {
    ($t:ty: $($op:ident => |$a:ident, $b:ident| $body:expr),* $(,)?) => { $(
        impl Combine<$t> for $op {
            #[inline(always)]
            fn combine($a: $t, $b: $t) -> $t {
                $body
            }
        }
    )* };
}

macro_rules! integers {
    ($($t:ty as $wide:ty),*) => { $(
        impl Lane for $t {
            type Acc = $t;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(acc: $t) -> $t {
                acc
            }
            #[inline(always)]
            fn divide(acc: $t, by: f64) -> $t {
                (acc as $wide / by as $wide) as $t
            }
        }
        impl Multiplies for $t {
            #[inline(always)]
            fn multiply(a: $t, b: $t) -> $t {
                a.wrapping_mul(b)
            }
        }
        combine!($t:
            Sum => |a, b| a.wrapping_add(b),
            Prod => |a, b| a.wrapping_mul(b),
            Min => |a, b| a.min(b),
            Max => |a, b| a.max(b),
            Band => |a, b| a & b,
            Bor => |a, b| a | b,
            Bxor => |a, b| a ^ b,
        );
    )* };
}
integers!(i8 as i64, u8 as u64, i16 as i64, u16 as u64, i32 as i64, u32 as u64, i64 as i128, u64 as u64);

macro_rules! floats {
    ($($t:ty),*) => { $(
        impl Lane for $t {
            type Acc = $t;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(acc: $t) -> $t {
                acc
            }
            #[inline(always)]
            fn divide(acc: $t, by: f64) -> $t {
                acc / by as $t
            }
        }
        impl Multiplies for $t {
            #[inline(always)]
            fn multiply(a: $t, b: $t) -> $t {
                a * b
            }
        }
        // IEEE 754-2019 minimum and maximum: a NaN wins, and -0 < +0.
        combine!($t:
            Sum => |a, b| a + b,
            Prod => |a, b| a * b,
            Min => |a, b| {
                let less = (a < b) | ((a == b) & a.is_sign_negative());
                if a.is_nan() | (less & !b.is_nan()) { a } else { b }
            },
            Max => |a, b| {
                let more = (a > b) | ((a == b) & a.is_sign_positive());
                if a.is_nan() | (more & !b.is_nan()) { a } else { b }
            },
        );
        impl Lane for [$t; 2] {
            type Acc = [$t; 2];
            #[inline(always)]
            fn widen(self) -> [$t; 2] {
                self
            }
            #[inline(always)]
            fn narrow(acc: [$t; 2]) -> [$t; 2] {
                acc
            }
            #[inline(always)]
            fn divide(acc: [$t; 2], by: f64) -> [$t; 2] {
                [acc[0] / by as $t, acc[1] / by as $t]
            }
        }
        impl Multiplies for [$t; 2] {
            #[inline(always)]
            fn multiply(a: [$t; 2], b: [$t; 2]) -> [$t; 2] {
                <Prod as Combine<[$t; 2]>>::combine(a, b)
            }
        }
        combine!([$t; 2]:
            Sum => |a, b| [a[0] + b[0], a[1] + b[1]],
            Prod => |a, b| [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]],
        );
    )* };
}
floats!(f32, f64);

/// A boolean: any byte but 0 is true.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Truth(u8);

impl Lane for Truth {
    type Acc = bool;
    #[inline(always)]
    fn widen(self) -> bool {
        self.0 != 0
    }
    #[inline(always)]
    fn narrow(acc: bool) -> Truth {
        Truth(u8::from(acc))
    }
    #[inline(always)]
    fn divide(acc: bool, _by: f64) -> bool {
        acc
    }
}
combine!(bool: Or => |a, b| a | b, And => |a, b| a & b, Xor => |a, b| a ^ b);

# A thin layer over cargo for those who use Ronde from C and C++:
#
#   make install PREFIX=/usr/local     library, headers, pkg-config file, CMake package, the program `ronde`
#
# DESTDIR is put before every path, as packagers expect.

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DESTDIR ?=
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Programs linked against one of these run with every later library of the same number.
SOVERSION := 0

FILL = sed -e 's|@PREFIX@|$(abspath $(PREFIX))|g' -e 's|@LIBDIR@|$(abspath $(LIBDIR))|g' \
	-e 's|@INCLUDEDIR@|$(abspath $(INCLUDEDIR))|g' -e 's|@VERSION@|$(VERSION)|g'

.PHONY: all install uninstall

all:
	$(CARGO) build --release --locked -p ronde-ffi -p ronde-cli

install: all
	install -d '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(LIBDIR)/cmake/ronde' '$(DESTDIR)$(INCLUDEDIR)' '$(DESTDIR)$(BINDIR)'
	install -m 755 '$(TARGET)/release/libronde.so' '$(DESTDIR)$(LIBDIR)/libronde.so.$(VERSION)'
	ln -sf 'libronde.so.$(VERSION)' '$(DESTDIR)$(LIBDIR)/libronde.so.$(SOVERSION)'
	ln -sf 'libronde.so.$(SOVERSION)' '$(DESTDIR)$(LIBDIR)/libronde.so'
	install -m 644 '$(TARGET)/release/libronde.a' '$(DESTDIR)$(LIBDIR)/libronde.a'
	install -m 644 include/ronde.h include/ronde.hpp '$(DESTDIR)$(INCLUDEDIR)'
	install -m 755 '$(TARGET)/release/ronde' '$(DESTDIR)$(BINDIR)/ronde'
	$(FILL) ffi/packaging/ronde.pc.in > '$(DESTDIR)$(LIBDIR)/pkgconfig/ronde.pc'
	$(FILL) ffi/packaging/rondeConfig.cmake.in > '$(DESTDIR)$(LIBDIR)/cmake/ronde/rondeConfig.cmake'
	$(FILL) ffi/packaging/rondeConfigVersion.cmake.in > '$(DESTDIR)$(LIBDIR)/cmake/ronde/rondeConfigVersion.cmake'

uninstall:
	rm -f '$(DESTDIR)$(LIBDIR)'/libronde.so* '$(DESTDIR)$(LIBDIR)/libronde.a' '$(DESTDIR)$(BINDIR)/ronde'
	rm -f '$(DESTDIR)$(INCLUDEDIR)/ronde.h' '$(DESTDIR)$(INCLUDEDIR)/ronde.hpp' '$(DESTDIR)$(LIBDIR)/pkgconfig/ronde.pc'
	rm -rf '$(DESTDIR)$(LIBDIR)/cmake/ronde'

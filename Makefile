# Thin over Meson: each target is one command that could be typed by hand. Binaries are in build/: the tool is
# build/hark, the library build/lib/libhark.so and .a.
#
#   make            what is run                make run        start a few services to try (ends with Ctrl-C)
#   make test       every test                 make bench      the measurements (installs their peers); BENCH=echo: one
#   make asan tsan  the tests, sanitized       make fuzz       the fuzzers, FUZZ_SECONDS=30 each
#   make format     the one dialect, applied   make soak       hostile clients everywhere, SOAK_SECONDS=600;
#                                                              SOAK='--changes 20': reloads and upgrades instead
#   make install [PREFIX=/usr/local] [DESTDIR=]                make uninstall, make clean
#   make deb        Debian packages, in build/deb              scripts/test-deb   tries them in a clean system

PREFIX ?= /usr/local
BUILD ?= build
FUZZ_SECONDS ?= 30
SOAK_SECONDS ?= 600
BENCH ?= all

all: build

build:
	@scripts/install-packages build
	@scripts/build $(BUILD) programs

run: build
	@HARK_BUILD=$(BUILD) exec scripts/run

test:
	@exec scripts/test

asan tsan:
	@exec scripts/test $@

bench: build
	@scripts/install-packages bench
	@exec bench/run --build $(BUILD) $(BENCH)

format:
	@scripts/install-packages test
	@exec scripts/format

fuzz:
	@scripts/install-packages test
	@FUZZ_SECONDS=$(FUZZ_SECONDS) exec scripts/fuzz

soak:
	@scripts/install-packages test
	@scripts/build $(BUILD) -Dtests=true
	@HARK_BUILD=$(BUILD) exec tests/soak/soak.py --seconds $(SOAK_SECONDS) $(SOAK)

# Where the dynamic linker keeps a cache, a library in a new place is found only after ldconfig.
install: build
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@scripts/build $(BUILD) programs
	meson install -C $(BUILD) --no-rebuild
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

uninstall:
	ninja -C $(BUILD) uninstall

# Copies the sources there first: what is in build/ otherwise is neither used nor changed.
deb:
	@exec scripts/deb

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz

.PHONY: all build run test asan tsan bench format fuzz soak install uninstall deb clean

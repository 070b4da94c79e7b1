// The exhaustive check inside the machine: takes recorded boundaries one after the other, preempts
// each through the trampoline and stores what landed, with no word to Python while all is well.
//
// The host steps in before four instructions, which are marked so: it brings the next boundary's
// registers to batch·load, their complements to batch·opposite and the stack to its place, and it
// compares batch·state (pushcall/check/batch_hooks.py). The blocks are laid out as in
// emulator/registers.py. The snippet's code is not there: where the boundary's instruction was
// stands CALL batch·landed, everything else faults. So the landing PC is what CALL pushed, less its
// five bytes.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

#define RAX_ 0
#define RCX_ 8
#define RDX_ 16
#define RBX_ 24
#define RSP_ 32
#define RBP_ 40
#define RSI_ 48
#define RDI_ 56
#define R8_ 64
#define R9_ 72
#define R10_ 80
#define R11_ 88
#define R12_ 96
#define R13_ 104
#define R14_ 112
#define R15_ 120
#define RIP_ 128
#define RFLAGS_ 136
#define MXCSR_ 160
#define BLOCK_SIZE 560

#define LOST 1

GLOBL	batch·verdict(SB), NOPTR, $8	// of the host: go on, a loss, or no frame is left
GLOBL	batch·load(SB), NOPTR, $BLOCK_SIZE
GLOBL	batch·opposite(SB), NOPTR, $BLOCK_SIZE
GLOBL	batch·state(SB), NOPTR, $BLOCK_SIZE	// the registers at the landing
GLOBL	batch·stack(SB), NOPTR, $64	// for PUSHFQ and POPFQ of our own

#define EACH_XMM(DO) \
	DO(X0, 304) \
	DO(X1, 320) \
	DO(X2, 336) \
	DO(X3, 352) \
	DO(X4, 368) \
	DO(X5, 384) \
	DO(X6, 400) \
	DO(X7, 416) \
	DO(X8, 432) \
	DO(X9, 448) \
	DO(X10, 464) \
	DO(X11, 480) \
	DO(X12, 496) \
	DO(X13, 512) \
	DO(X14, 528) \
	DO(X15, 544)

#define LOAD_XMM(reg, offset) \
	MOVUPS	batch·load+offset(SB), reg
#define STORE_XMM(reg, offset) \
	MOVUPS	reg, batch·state+offset(SB)
#define POISON_XMM(reg, offset) \
	MOVUPS	batch·opposite+offset(SB), reg

TEXT batch·start(SB), NOSPLIT|NOFRAME, $0
	NOP	// the host: the first frame
	JMP	batch·preempt(SB)

TEXT batch·preempt(SB), NOSPLIT|NOFRAME, $0
	// The goroutine's registers, with the call of asyncPreempt pushed.
	STMXCSR	batch·state+MXCSR_(SB)
	MOVL	batch·state+MXCSR_(SB), AX
	CMPL	AX, batch·load+MXCSR_(SB)
	JEQ	loaded
	LDMXCSR	batch·load+MXCSR_(SB)
loaded:
	EACH_XMM(LOAD_XMM)
	MOVQ	batch·load+RSP_(SB), SP
	PUSHQ	batch·load+RFLAGS_(SB)
	POPFQ
	PUSHQ	batch·load+RIP_(SB)
	MOVQ	batch·load+RAX_(SB), AX
	MOVQ	batch·load+RCX_(SB), CX
	MOVQ	batch·load+RDX_(SB), DX
	MOVQ	batch·load+RBX_(SB), BX
	MOVQ	batch·load+RBP_(SB), BP
	MOVQ	batch·load+RSI_(SB), SI
	MOVQ	batch·load+RDI_(SB), DI
	MOVQ	batch·load+R8_(SB), R8
	MOVQ	batch·load+R9_(SB), R9
	MOVQ	batch·load+R10_(SB), R10
	MOVQ	batch·load+R11_(SB), R11
	MOVQ	batch·load+R12_(SB), R12
	MOVQ	batch·load+R13_(SB), R13
	MOVQ	batch·load+R14_(SB), R14
	MOVQ	batch·load+R15_(SB), R15
	JMP	runtime·asyncPreempt(SB)

// Where the snippet's code would go on.
TEXT batch·landed(SB), NOSPLIT|NOFRAME, $0
	MOVQ	SP, batch·state+RSP_(SB)
	LEAQ	batch·stack+64(SB), SP
	PUSHFQ
	CLD
	MOVQ	AX, batch·state+RAX_(SB)
	MOVQ	CX, batch·state+RCX_(SB)
	MOVQ	DX, batch·state+RDX_(SB)
	MOVQ	BX, batch·state+RBX_(SB)
	MOVQ	BP, batch·state+RBP_(SB)
	MOVQ	SI, batch·state+RSI_(SB)
	MOVQ	DI, batch·state+RDI_(SB)
	MOVQ	R8, batch·state+R8_(SB)
	MOVQ	R9, batch·state+R9_(SB)
	MOVQ	R10, batch·state+R10_(SB)
	MOVQ	R11, batch·state+R11_(SB)
	MOVQ	R12, batch·state+R12_(SB)
	MOVQ	R13, batch·state+R13_(SB)
	MOVQ	R14, batch·state+R14_(SB)
	MOVQ	R15, batch·state+R15_(SB)
	EACH_XMM(STORE_XMM)
	STMXCSR	batch·state+MXCSR_(SB)
	POPQ	batch·state+RFLAGS_(SB)
	JMP	batch·judge(SB)

TEXT batch·judge(SB), NOSPLIT|NOFRAME, $0
	MOVQ	batch·verdict(SB), AX	// the host: compares, and if all is well, the next frame
	TESTQ	AX, AX
	JNE	other
	JMP	batch·preempt(SB)
other:
	CMPQ	AX, $LOST
	JNE	done
	CALL	batch·lost(SB)	// a gate; Python has noted the loss when it returns
	JMP	batch·next(SB)
done:
	CALL	batch·done(SB)	// a gate; does not return

TEXT batch·next(SB), NOSPLIT|NOFRAME, $0
	MOVQ	batch·verdict(SB), AX	// the host: the next frame
	TESTQ	AX, AX
	JNE	done
	JMP	batch·preempt(SB)
done:
	CALL	batch·done(SB)

// In place of asyncPreempt2: everything that it may overwrite becomes the complement of what it
// was at the boundary, so that nothing hides behind an equal value. SP and BP are kept; since 1.26
// R14 is g.
TEXT runtime·asyncPreempt2(SB), NOSPLIT|NOFRAME, $0
	NOP	// the host: since 1.26, xRegSave and xRegRestore
	EACH_XMM(POISON_XMM)
	PUSHQ	batch·opposite+RFLAGS_(SB)
	POPFQ
#ifdef go1_26
	get_tls(CX)
	MOVQ	g(CX), R14
#else
	MOVQ	batch·opposite+R14_(SB), R14
#endif
	MOVQ	batch·opposite+RAX_(SB), AX
	MOVQ	batch·opposite+RCX_(SB), CX
	MOVQ	batch·opposite+RDX_(SB), DX
	MOVQ	batch·opposite+RBX_(SB), BX
	MOVQ	batch·opposite+RSI_(SB), SI
	MOVQ	batch·opposite+RDI_(SB), DI
	MOVQ	batch·opposite+R8_(SB), R8
	MOVQ	batch·opposite+R9_(SB), R9
	MOVQ	batch·opposite+R10_(SB), R10
	MOVQ	batch·opposite+R11_(SB), R11
	MOVQ	batch·opposite+R12_(SB), R12
	MOVQ	batch·opposite+R13_(SB), R13
	MOVQ	batch·opposite+R15_(SB), R15
	RET

// Every shape of frame: none, small, large, huge, leaf, wrapper, context, tail call.
#include "textflag.h"
TEXT ·loop(SB), NOSPLIT, $0-8
	MOVQ $10, AX
	XORQ BX, BX
again:
	ADDQ AX, BX
	DECQ AX
	JNZ again
	MOVQ BX, ret+0(FP)
	RET

TEXT ·tail(SB), NOSPLIT, $8-8
	RET ·loop(SB)

TEXT ·big(SB), 0, $2000-8
	CALL ·loop(SB)
	RET

TEXT ·huge(SB), 0, $10000-8
	CALL ·loop(SB)
	RET

TEXT ·wrap(SB), WRAPPER, $16-8
	CALL ·loop(SB)
	RET

TEXT ·wrapns(SB), WRAPPER|NOSPLIT, $16-8
	CALL ·loop(SB)
	RET

TEXT ·ctxt(SB), NEEDCTXT, $16-8
	CALL ·loop(SB)
	RET

TEXT ·leaf(SB), 0, $16-8
	MOVQ AX, x-16(SP)
	RET

TEXT ·leaf200(SB), 0, $200-8
	MOVQ AX, x-16(SP)
	RET

TEXT ·framelesscall(SB), 0, $0-8
	CALL ·loop(SB)
	RET

TEXT ·framelesscallns(SB), NOSPLIT, $0-8
	CALL ·loop(SB)
	JMP 2(PC)
	JMP -1(PC)
	RET

TEXT ·pushes(SB), 0, $24-16
	PUSHQ AX
	MOVQ a+0(FP), CX
	MOVQ x-8(SP), DX
	MOVQ 8(SP), BX
	PUSHFQ
	ADJSP $16
	MOVQ b+8(FP), CX
	LEAQ y-16(SP), DX
	ADJSP $-16
	POPFQ
	POPQ AX
	CALL ·loop(SB)
	TESTQ AX, AX
	JZ early
	MOVQ CX, b+8(FP)
	RET
early:
	MOVQ DX, b+8(FP)
	RET

TEXT ·frame120(SB), 0, $120-8
	CALL ·loop(SB)
	RET

TEXT ·frame128(SB), 0, $128-8
	CALL ·loop(SB)
	RET

TEXT ·frame4088(SB), 0, $4088-8
	CALL ·loop(SB)
	RET

TEXT ·frame4096(SB), 0, $4096-8
	CALL ·loop(SB)
	RET

TEXT ·noframe(SB), NOSPLIT|NOFRAME, $0
	CALL ·loop(SB)
	RET

TEXT ·negative(SB), NOSPLIT, $-8
	RET
